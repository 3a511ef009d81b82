"""The index of parsed runs spares reading, and never changes what is read."""

import json
import math
import sqlite3

import pytest

from harness.report import readings
from harness.report.readings import INDEX, read_folder
from harness.report.write import build_report
from harness.store.tables import TABLES
from tests.synthetic_results import quality, spec, write_results

CELLS = [spec(precond, seed) for precond in ("ctm", "new") for seed in range(3)]
IDS = [cell.run_id for cell in CELLS]


def strange(cell, step, nfe, metric):
    """Values that JSON, SQL and comparisons of numbers may lose."""
    if cell.seed == 2 and step == 800:
        return {1: math.inf, 2: math.nan}[nfe]
    return -0.0 if step == 100 else 1 if step == 200 else quality(cell, step, nfe, metric)


@pytest.fixture
def parsed(monkeypatch):
    """Ids of the runs whose files were read, in order."""
    found = []
    read = readings._read

    def _read(run):
        found.append(run.run_id)
        return read(run)

    monkeypatch.setattr(readings, "_read", _read)
    monkeypatch.setattr(readings, "is_recent", lambda _: False)
    return found


@pytest.fixture
def store(tmp_path):
    return write_results(tmp_path, CELLS, value=strange)


def tables(store):
    report = build_report(store, "synthetic")
    texts = [report.text(table, extension) for table in TABLES for extension in ("csv", "txt")]
    return [*texts, repr(report.rows.to_dict("list")), report.notes]


def test_tables_are_the_same_with_the_index_and_without(store, parsed):
    first = tables(store)
    assert parsed == IDS
    parsed.clear()
    assert tables(store) == first
    assert not parsed
    kept = repr(read_folder(store, IDS))
    (store.root / INDEX).unlink()
    assert repr(read_folder(store, IDS)) == kept
    assert parsed == IDS
    assert tables(store) == first


@pytest.mark.parametrize("name", ["eval.jsonl", "status.json", "provenance.json", "spec.json"])
def test_a_changed_run_is_read_again_alone(store, parsed, name):
    before = tables(store)
    parsed.clear()
    path = store.run_at(IDS[1]).path / name
    if name == "eval.jsonl":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"changed": 1}))
    after = tables(store)
    assert parsed == [IDS[1]]
    assert (after != before) == (name == "eval.jsonl")
    parsed.clear()
    assert tables(store) == after
    assert not parsed


def test_a_deleted_run_is_gone(store, parsed):
    tables(store)
    for path in store.run_at(IDS[0]).path.iterdir():
        path.unlink()
    store.run_at(IDS[0]).path.rmdir()
    assert list(read_folder(store, IDS)) == IDS[1:]
    (store.run_at(IDS[1]).path / "status.json").unlink()
    parsed.clear()
    assert list(read_folder(store, IDS)) == IDS[1:]
    assert parsed == [IDS[1]]
    with sqlite3.connect(store.root / INDEX) as index:
        assert {row[0] for row in index.execute("SELECT run_id FROM runs")} == set(IDS[1:])


def test_what_is_wrong_is_told_every_time(store, parsed):
    torn, damaged, drawn = (store.run_at(IDS[k]).path for k in range(3))
    (torn / "eval.jsonl").write_text((torn / "eval.jsonl").read_text() + '{"step"')
    (damaged / "status.json").write_text("{")
    (drawn / "coefficients.json").write_text("{")
    first = tables(store)
    assert len(first[-1]) >= 3
    parsed.clear()
    assert tables(store) == first
    assert parsed == IDS[:3]


def test_a_run_that_may_still_change_unseen_is_not_kept(store, parsed, monkeypatch):
    monkeypatch.undo()
    read_folder(store, IDS)
    assert not (store.root / INDEX).exists()


def _other_version(path):
    with sqlite3.connect(path) as index:
        index.execute("UPDATE about SET version = 'another'")


def _other_numbers(path):
    with sqlite3.connect(path) as index:
        index.execute("UPDATE runs SET content = replace(content, '1', '2')")


def _other_tables(path):
    path.unlink()
    with sqlite3.connect(path) as index:
        index.execute("CREATE TABLE about (version, more)")


DAMAGE = {
    "another version": _other_version,
    "other numbers": _other_numbers,
    "other tables": _other_tables,
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"no database" * 1000),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "overwritten": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"x" * 8192),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_ignored_and_written_anew(store, parsed, damage):
    first = tables(store)
    DAMAGE[damage](store.root / INDEX)
    parsed.clear()
    assert tables(store) == first
    assert parsed == IDS
    parsed.clear()
    assert tables(store) == first
    assert parsed == ([] if damage != "other tables" else IDS)


def test_an_index_that_cannot_be_written_or_read_is_done_without(store, parsed):
    (store.root / INDEX).mkdir()
    first = tables(store)
    assert tables(store) == first
    assert parsed == 2 * IDS


def test_a_locked_index_is_left_to_its_writer(store, parsed, monkeypatch):
    first = tables(store)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0}))
    with sqlite3.connect(store.root / INDEX) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert tables(store) == first
    assert tables(store) == first
