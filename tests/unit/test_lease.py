"""Leases: kept by the living, taken over from the dead, from other machines only with patience."""

import os
import threading
import time

import pytest

from harness.store import lease as leases
from harness.store.lease import held, lease, taken


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 0.6)
    return 0.6


@pytest.fixture
def left(tmp_path):
    """A lease file that a holder left behind, with parts of its record replaced."""

    def leave(**replaced):
        path = tmp_path / ".lease"
        mine = lease(path)
        assert taken(mine)
        record = dict(line.split("=", 1) for line in path.read_text().splitlines()[1:])
        first = path.read_text().splitlines()[0]
        mine.release()
        fields = [f"{key}={value}" for key, value in {**record, **replaced}.items()]
        path.write_text("\n".join([first, *fields, ""]))
        return path

    return leave


def seconds_until_taken(path, limit=5.0):
    mine, started = lease(path), time.monotonic()
    while not taken(mine):
        assert time.monotonic() - started < limit
        time.sleep(0.02)
    mine.release()
    assert not path.exists()
    return time.monotonic() - started


def dead_pid():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_living_keep_it_beyond_any_patience(tmp_path, patience):
    mine, other = lease(tmp_path / "x"), lease(tmp_path / "x")
    assert taken(mine)
    deadline = time.monotonic() + 2.5 * patience
    while time.monotonic() < deadline:
        assert not taken(other)
        time.sleep(0.05)
    mine.release()
    assert taken(other)
    other.release()


def test_of_a_dead_process_of_this_machine_it_is_taken_at_once(left, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 180.0)
    assert seconds_until_taken(left(pid=dead_pid(), duration=180.0)) < 5


def test_of_a_process_number_that_is_in_use_again_it_is_taken_at_once(left, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 180.0)
    assert seconds_until_taken(left(pid=os.getpid(), start=1)) < 5


def test_of_another_machine_it_is_taken_after_patience(left, patience):
    path = left(host="elsewhere", pid=dead_pid())
    assert seconds_until_taken(path) > patience


@pytest.mark.parametrize("content", ["", "filelock/2\npid=12", "\n"])
def test_half_written_it_is_taken_after_a_while(tmp_path, patience, content):
    """Whoever died while writing its name there must not block its successors for ever."""
    path = tmp_path / ".lease"
    path.write_text(content)
    waited = seconds_until_taken(path)
    assert waited > (patience if not content else 0)


def test_an_empty_one_becomes_whole_if_its_holder_lives_after_all(tmp_path, patience):
    path = tmp_path / ".lease"
    mine = lease(path)
    assert taken(mine)
    record = path.read_bytes()
    path.write_bytes(b"")  # the same file: its holder's record has not arrived yet
    other, deadline = lease(path), time.monotonic() + 1.5 * patience
    while time.monotonic() < deadline:
        assert not taken(other)
        time.sleep(0.05)
    with path.open("r+b") as file:
        file.write(record)
    time.sleep(0.05)
    assert not taken(other)
    assert other.owner == mine.owner
    mine.release()


def test_held_waits_for_its_turn(tmp_path):
    order = []

    def second():
        with held(tmp_path / "x"):
            order.append("second")

    with held(tmp_path / "x"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
