"""A run folder after a crash: no traceback, neighbours go on, what can be rebuilt is rebuilt."""

import dataclasses
import itertools
import json
import math
import shutil

import pytest

from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.errors import ArtifactError, DamagedError
from harness.store.files import append_line, write_json
from harness.store.records import EvalRow, Measure
from harness.store.store import ResultStore
from tests.conftest import TINY
from tests.synthetic_results import spec, write_results

FILES = [
    "status.json",
    "spec.json",
    "eval.jsonl",
    "train.jsonl",
    "provenance.json",
    "coefficients.json",
]
CONTENTS = {
    "empty": b"",
    "nul": b"\0" * 300,
    "list": b"[]\n",
    "null": b"null\n",
    "object": b"{}\n",
    "string": b'"done"\n',
    "number": b"7\n",
    "nested without end": b"[" * 20_000,
    "torn": b'{"state": "do',
    "not utf-8": b"\xff\xfe{}\n",
    "other types": b'{"state": 1, "step": "x", "costs": 3, "t": {}, "precond": 1, "curves": 2}\n',
}
#: every file of a run, damaged in every way
CASES = list(itertools.product(FILES, CONTENTS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Grid and results of two cells that are done: ctm and edm."""
    from harness.cli import main

    folder = tmp_path_factory.mktemp("whole")
    grid = folder / "tiny.yaml"
    text = TINY.replace("[ctm, analytic]", "[ctm, edm]").replace("[10, 25]", "[2]")
    grid.write_text(text + f"results: {folder / 'results'}\n")
    assert main(["run", "--matrix", str(grid)]) == 0
    return grid, folder / "results"


@pytest.fixture
def place(whole, tmp_path):
    """A copy of it: the arguments of `run`, and the folders of ctm's and edm's run."""
    grid, results = whole
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    runs = sorted((copy / "runs").iterdir(), key=lambda path: path.name)
    return ["--matrix", grid, "--set", f"results={copy}"], runs[0], runs[1]


def rows(run):
    return [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]


def test_verbs_that_read_tell_and_go_on(tmp_path, harness):
    """`status`, `report` and `publish` of runs of which each is damaged otherwise, and `show`."""
    specs = [spec("ctm", seed) for seed in range(len(CASES))]
    store = write_results(tmp_path / "r", [*specs, spec("edm", 0)], budgets=(100,), nfe=(1,))
    for each, (name, kind) in zip(specs, CASES, strict=True):
        (store.run_at(each.run_id).path / name).write_bytes(CONTENTS[kind])
    code, out, _ = harness("status", store.root)
    assert code == 0
    assert f"{len(specs) + 1} runs: " in out
    for form in ("text", "html"):
        code, out, err = harness("report", store.root, "--format", form)
        assert code == 1
    told = (store.root / "tables" / "synthetic" / "coverage.txt").read_text()
    assert "edm" in (store.root / "tables" / "synthetic" / "leaderboard.csv").read_text()
    for each, (name, kind) in zip(specs, CASES, strict=True):
        path = store.run_at(each.run_id).path / name
        silent = name == "train.jsonl" or (name, kind) in SILENT
        assert (str(path) in told) != silent, (name, kind)
        code, _, err = harness("show", each.run_id, "--results", store.root)
        assert code == 0 or str(path) in err
        assert code == 1 or silent or name in ("eval.jsonl", "coefficients.json")
    code, _, err = harness("publish", store.root, "--out", tmp_path / "p")
    assert code == 1
    assert "is damaged" in err


#: what says nothing and is no damage: no row was written yet, or nobody says where it was
SILENT = {("eval.jsonl", "empty"), ("provenance.json", "object")}


def test_run_rebuilds_what_it_can(tmp_path, harness):
    """Of cells that have all their numbers; of what it cannot, the file and the mend are told."""
    seeds = list(range(len(CASES) + 1))
    path = tmp_path / "grid.yaml"
    text = TINY.replace("[ctm, analytic]", "[ctm]").replace("[10, 25]", "[2]")
    path.write_text(text.replace("seed: [0]", f"seed: {seeds}") + f"results: {tmp_path / 'r'}\n")
    matrix = expand(load_grid(path))
    store = ResultStore(tmp_path / "r").prepare()
    for each in matrix.specs:
        folder = store.open(each).path
        lines = [vars(row(measure)) for measure in matrix.wanted(each)]
        (folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "status.json").write_text('{"state": "done", "reason": "", "step": 2}')
    cases = [case for case in CASES if case[0] != "eval.jsonl"]  # below, with a worker
    damaged = {}
    for each, (name, kind) in zip(matrix.specs, cases, strict=False):
        damaged[store.run_at(each.run_id).path / name] = CONTENTS[kind]
    for file, content in damaged.items():
        file.write_bytes(content)
    code, out, err = harness("plan", "--matrix", path)
    assert code == 1
    assert "unreadable" in out
    code, out, err = harness("run", "--matrix", path)
    assert code == 1
    assert f"{len(seeds)} cells, all done" in out
    for file in damaged:
        run = store.run(file.parent.name)
        assert run.spec.run_id == run.run_id
        assert run.status()["state"] == "done"
        assert not run.missing(matrix.wanted(each))
        if file.name in ("provenance.json", "coefficients.json") and str(file) in err:
            assert "delete it" in err or "delete the file" in err
            file.unlink()
    code, _, err = harness("run", "--matrix", path)  # what was promised
    assert code == 0
    assert "damaged" not in err


def row(measure):
    """A number for a measure."""
    return EvalRow(images=64, seconds=1.0, reference_n=200, value=1.0, **vars(measure))


def test_run_computes_what_is_missing_in_spite_of_damage(place, harness):
    """Also where status.json, spec.json and the end of eval.jsonl are damaged at once."""
    arguments, damaged, _ = place
    before = rows(damaged)
    lines = (damaged / "eval.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "eval.jsonl").write_bytes(b"".join(lines[:-1]) + b"\0" * 50)
    for name in ("status.json", "spec.json", "provenance.json", "coefficients.json"):
        (damaged / name).write_bytes(b"")
    code, _, err = harness("run", *arguments)
    assert code == 0, err
    assert [{**row, "seconds": 0} for row in rows(damaged)] == [
        {**row, "seconds": 0} for row in before
    ]
    for name in ("status.json", "spec.json", "provenance.json", "coefficients.json"):
        assert len(json.loads((damaged / name).read_text())) > 3


def test_nul_bytes_after_the_last_row_are_cut_off(place, harness):
    arguments, damaged, _ = place
    whole = (damaged / "eval.jsonl").read_bytes()
    (damaged / "eval.jsonl").write_bytes(whole + b"\0" * 50)
    _, out, _ = harness("report", damaged.parents[1])
    assert "`run` cuts it off" in out
    assert harness("run", *arguments)[0] == 0
    assert (damaged / "eval.jsonl").read_bytes() == whole
    assert "cuts it off" not in harness("report", damaged.parents[1])[1]


@pytest.mark.parametrize("line", ["[]", "null", "{}", '"x"', "7", '{"step": []}'])
def test_a_line_that_is_no_row_costs_its_cell_alone(place, harness, line):
    arguments, damaged, neighbour = place
    (damaged / "eval.jsonl").write_text(line + "\n")
    neighbour.joinpath("status.json").write_bytes(b"")
    code, _, err = harness("run", *arguments)
    assert code == 1
    assert f"{damaged.name}: failed: {damaged / 'eval.jsonl'}: a line cannot be read" in err
    assert json.loads((neighbour / "status.json").read_text())["state"] == "done"
    code, out, _ = harness("plan", *arguments)
    assert code == 1
    assert "unreadable" in out
    code, _, err = harness("eval", "--results", damaged.parents[1])
    assert code == 1
    assert f"{damaged.name}: failed: " in err


WRONG = ["x", None, [], {}, True, math.nan, math.inf, -math.inf, 0.5]
#: what is a value of these fields after all
TAKEN = {
    **dict.fromkeys(("metric", "extractor", "sampler"), ("x",)),
    "extractor_id": ("x", None),
    "seconds": (0.5,),
    **dict.fromkeys(("std", "ema"), (0.5, None)),
    "value": (math.nan, math.inf, -math.inf, 0.5),  # tables call those diverged
    "lower_is_better": (True,),
    "plugins": ({}, None),
}


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(EvalRow)])
def test_a_row_with_a_field_of_another_type_is_refused(field):
    """And not read as a number of something else, or found out by a traceback in a table."""
    whole = vars(row(Measure(1, 1, "frechet", "raw", 200)))
    assert EvalRow.from_json(whole) == EvalRow(**whole)
    for value in WRONG:
        if repr(value) in map(repr, TAKEN.get(field, ())):
            assert repr(getattr(EvalRow.from_json(whole | {field: value}), field)) == repr(value)
        else:
            with pytest.raises(ValueError, match=f"{field} is "):
                EvalRow.from_json(whole | {field: value})


def test_a_clock_that_is_lost_is_not_zero(place, harness):
    """Weights of a budget without rows, and no log that says how long training took."""
    arguments, damaged, _ = place
    (damaged / "eval.jsonl").unlink()
    (damaged / "train.jsonl").write_bytes(b"")
    code, _, err = harness("run", *arguments)
    assert code == 1
    assert "train.jsonl does not say how long training to step 2 took; delete ema/step-" in err
    for path in (damaged / "ema").iterdir():
        path.unlink()
    shutil.rmtree(damaged / "checkpoints")
    assert harness("run", *arguments)[0] == 0
    assert rows(damaged)[0]["seconds"] > 0


def test_matrix_json_is_written_anew(place, harness):
    arguments, damaged, _ = place
    path = damaged.parents[1] / "tables" / "tiny" / "matrix.json"
    before = path.read_text()
    for content in CONTENTS.values():
        path.write_bytes(content)
        code, _, err = harness("report", damaged.parents[1])
        assert code == 1
        assert f"{path} is damaged" in err
        assert harness("run", *arguments)[0] == 0
        assert path.read_text() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_json_holds_what_is_not_finite(tmp_path, value):
    for write in (write_json, append_line):
        with pytest.raises(ArtifactError, match=rf"x\.json: a\.1\.b is {value}, which is not"):
            write(tmp_path / "x.json", {"a": [0, {"b": value}]})
    assert not (tmp_path / "x.json").exists()


def test_notes_of_failures_that_are_none_are_passed_over(tmp_path):
    run = ResultStore(tmp_path).run_at("x")
    run.path.mkdir(parents=True)
    for content in CONTENTS.values():
        (run.path / "failure-0.json").write_bytes(content)
        assert run.failure(run.path / "failure-0.json") is None
        (run.path / "request.json").write_bytes(content)
        with pytest.raises(DamagedError, match=r"request\.json is damaged"):
            _ = run.request
