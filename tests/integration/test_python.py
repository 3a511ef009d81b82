"""The harness from Python: cells in this process, grids in processes of their own."""

import copy
import re
import subprocess
import sys

import pytest
import torch

from harness.api import (
    CellsFailed,
    ConfigError,
    DenoiserForm,
    HarnessError,
    load_student,
    register_precond,
    results,
    run,
    run_cell,
)
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.registry import registry
from harness.report.frame import COLUMNS
from harness.store.store import ResultStore
from harness.train import in_process
from tests.unit.documents import DOCS, code_blocks


@pytest.fixture
def one_thread():
    """As many as the workers of `grid` have: rounding depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cell_in_this_process_has_the_numbers_of_a_worker(grid, harness, one_thread, tmp_path):
    """To the last bit, with calibration, fit and two averages; torch is left as it was."""
    averages, only = "train.eval_ema=[0.9, 0.5]", "precond=analytic"
    code, _, err = harness("run", "--matrix", grid, "--set", averages, "--only", only)
    assert code == 0, err
    matrix = expand(load_grid(grid, [averages]), [only])
    before, mode = sorted(tmp_path.rglob("*")), torch.get_deterministic_debug_mode()
    for spec in matrix.specs:
        told = []
        rows = in_process.run_cell(spec, matrix.request, device="cpu", on_row=told.append)
        assert told == rows
        kept = ResultStore(tmp_path / "results").run_at(spec.run_id).rows()
        assert [row.measure for row in rows] == list(kept)
        for row in rows:
            mine, theirs = row.to_json(), kept[row.measure].to_json()
            assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
            assert (row.seconds > 0) == (row.step > 0)
    assert sorted(tmp_path.rglob("*")) == before
    assert torch.get_deterministic_debug_mode() == mode


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    """A folder to be in, and a registry whose additions are forgotten."""
    monkeypatch.setattr(registry, "_classes", copy.deepcopy(registry._classes))
    monkeypatch.chdir(tmp_path)


def test_the_page_runs_as_one_session(notebook, capsys):
    session = {"__name__": "__main__"}
    for block in code_blocks("python.md"):
        exec(block, session)
    said = capsys.readouterr().out
    assert "20 2 alignment" in said
    assert "train__lrr=0.0001: train.lrr: unknown key (did you mean 'lr'?" in said
    rows = session["rows"]
    assert dict(rows.dtypes.astype(str)) == COLUMNS
    page = (DOCS / "python.md").read_text()
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.M)) == COLUMNS
    assert list(COLUMNS) == list(rows)
    assert (len(rows), rows.precond.nunique(), rows.seed.nunique()) == (16, 2, 2)
    assert sorted(session["everything"].value) == sorted(rows.value)
    assert session["x"].shape == (16, 2)
    assert not torch.equal(session["first"].sample(16, nfe=2), session["x"])


def test_importing_the_api_costs_neither_torch_nor_pandas():
    code = "import sys, harness.api; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_errors_are_the_sentences_of_the_command_line(grid, harness, tmp_path):
    bad, unknown = tmp_path / "bad.py", "axes.precond=[ctm, arcc]"
    bad.write_text("import nowhere")
    wrong = [
        ((tmp_path / "no.yaml",), {}, ("--matrix", tmp_path / "no.yaml")),
        ((grid,), {"only": {"precond": "arc"}}, ("--matrix", grid, "--only", "precond=arc")),
        ((grid,), {"plugins": [bad]}, ("--matrix", grid, "--plugin", bad)),
        ((grid,), {"axes__precond": ["ctm", "arcc"]}, ("--matrix", grid, "--set", unknown)),
    ]
    for arguments, options, words in wrong:
        with pytest.raises(ConfigError) as caught:
            run(*arguments, **options)
        code, _, err = harness("run", *words)
        assert (code, err) == (2, f"error: {caught.value}\n")
    with pytest.raises(ConfigError, match="has 2 cells, run_cell takes one"):
        run_cell(grid)
    with pytest.raises(ConfigError, match=r"results folder \(it has no runs/\)"):
        results(tmp_path)
    with pytest.raises(ConfigError, match="no-run: no such file or folder, and no run: "):
        load_student("no-run", results=tmp_path)
    assert not (tmp_path / "results").exists()


def test_cells_that_fail_are_an_exception_with_the_rows_that_there_are(grid, tmp_path):
    options = {"only": {"precond": "ctm"}, "budgets": [0, 20], "train__lr": 1e9, "quiet": True}
    with pytest.raises(CellsFailed, match=r"^ctm-gmm-ctm-s0-.*: diverged: .* at step") as caught:
        run(grid, **options)
    assert set(caught.value.rows.step) == {0}
    assert set(caught.value.failed) == set(caught.value.rows.run_id)
    with pytest.raises(HarnessError, match="not finite at step"):
        run_cell(grid, **{key: options[key] for key in ("only", "budgets", "train__lr")})


def test_what_is_known_to_a_notebook_alone_is_refused_before_cells_start(notebook, grid):
    register_precond("only-here")(type("OnlyHere", (DenoiserForm,), {"__module__": "__main__"}))
    with pytest.raises(ConfigError, match="precond 'only-here' is known to this process alone"):
        run(grid, axes__precond=["ctm", "only-here"])


def test_a_notebook_may_write_its_class_anew_and_take_no_built_in_name(notebook):
    cell = "from harness.api import *\n@register_precond({!r})\nclass Mine(DenoiserForm):\n  {}"
    for body in ("pass", "tangent = False"):
        exec(cell.format("anew", body), {"__name__": "__main__"})
    assert registry.get("precond", "anew").tangent is False
    with pytest.raises(ConfigError, match="two precond plugins are called 'ctm'"):
        exec(cell.format("ctm", "pass"), {"__name__": "__main__"})
