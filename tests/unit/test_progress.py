"""What takes long says what it is, how far, and how long still; and stops when it is asked to."""

import re
import signal
import time
from types import SimpleNamespace

import pytest

from harness.api import calibrate, create_precond, create_teacher, run_cell
from harness.cli import waiting
from harness.core.progress import Pace, listening, tell
from harness.store.records import State
from harness.store.run import Run
from harness.train.fit import fit
from harness.train.status import Interrupted, Status


@pytest.fixture
def told():
    heard = []
    with listening(lambda *what: heard.append(what)):
        yield heard


def test_nobody_need_listen():
    tell("anything", 1, 2)


def test_a_calibration_tells_every_batch_and_a_fit_every_step(told):
    teacher = create_teacher("gmm")
    precond = create_precond("arc", sigma_data=teacher.spec.sigma_data)
    calibrate(precond, teacher, levels=8, samples=256)
    last = [done for what, done, total in told if what == "calibrating" and done == total]
    assert len(last) >= 2  # the mean of the data, then the trajectories
    told.clear()
    settings = {"name": "mlp", "width": 16, "depth": 1, "fit_steps": 3, "fit_batch": 8}
    fit(teacher, teacher.dataset(), settings | {"fit_lr": 1e-3})
    assert told == [("fitting the backbone", k, 3) for k in range(3)]


def test_a_line_says_how_long_still(monkeypatch):
    clock = iter([0.0, 30.0, 60.0, 600.0, 700.0, 720.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.line("calibrating", 0, 10) == "calibrating: 0 %"
    assert pace.line("calibrating", 1, 10) == "calibrating: 10 %, 4 min left"
    assert pace.line("calibrating", 9, 10) == "calibrating: 90 %, 7 s left"
    assert pace.line("sampling, NFE 2", 0, 10) == "sampling, NFE 2: 0 %"
    # what an interrupted calibration kept took no time here
    assert pace.line("calibrating", 5, 10) == "calibrating: 50 %"
    assert pace.line("calibrating", 7, 10) == "calibrating: 70 %, 30 s left"


def test_a_log_gets_dated_lines_of_what_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "PATIENCE", 0.02)
    monkeypatch.setattr(waiting, "EVERY", 0.05)
    with waiting.Waiting() as shown, listening(shown):
        tell("quick", 0, 1)
        for k in range(5):
            tell("slow", k, 5)
            time.sleep(0.03)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(re.match(r"\d\d:\d\d:\d\d slow: \d+ %", line) for line in lines)


@pytest.fixture
def status(tmp_path):
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    alone = SimpleNamespace(num_processes=1, is_main_process=True, process_index=0)
    (tmp_path / "run").mkdir()
    yield Status(Run(tmp_path / "run"), alone)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_worker_says_it_in_its_status_and_stops_while_it_prepares(status, monkeypatch):
    monkeypatch.setattr("harness.train.status.BEAT", 0.0)
    with listening(status.hear):
        tell("calibrating", 1, 4)
        assert status.run.status()["detail"].startswith("calibrating: 25 %")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped, calibrating; `run` begins that anew"):
            tell("calibrating", 2, 4)
        status.enter("training", 3)
        tell("dropping in", 1, 2)  # training saves a checkpoint first
        status.enter("evaluating", 3)
        with pytest.raises(Interrupted):
            tell("sampling, NFE 1", 1, 2)
    status.done()
    assert status.run.status()["state"] == State.DONE
    assert "detail" not in status.run.status()


def test_a_cell_in_this_process_tells_what_it_waits_for(told):
    grid = {
        "version": 1,
        "name": "told",
        "axes": {"precond": ["ctm"], "teacher": ["gmm"]},
        "train": {"batch": 8},
        "backbone": {"width": 16, "depth": 1, "fit_steps": 2, "fit_batch": 8},
        "budgets": [1],
        "evaluate": {"nfe": [2], "samples": 32, "ode_steps": 16},
    }
    run_cell(grid)
    assert list(dict.fromkeys(what for what, *_ in told)) == [
        "fitting the backbone",
        "sampling, NFE 2",
        "solving the teacher's ODE",
        "features of the data",
    ]
