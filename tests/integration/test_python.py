"""The harness from Python: cells in this process, grids in processes of their own."""

import copy

import pytest
import torch

from harness.api import ConfigError
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.registry import registry
from harness.store.store import ResultStore
from harness.train.in_process import run_cell


@pytest.fixture
def one_thread():
    """As many as the workers of `grid` have: rounding depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cell_in_this_process_has_the_numbers_of_a_worker(grid, harness, one_thread, tmp_path):
    """To the last bit, with calibration, fit and two averages; torch is left as it was."""
    code, _, err = harness("run", "--matrix", grid, "--set", "train.eval_ema=[0.9, 0.5]")
    assert code == 0, err
    matrix = expand(load_grid(grid, ["train.eval_ema=[0.9, 0.5]"]))
    before = sorted(tmp_path.rglob("*"))
    for spec in matrix.specs:
        told = []
        rows = run_cell(spec, matrix.request, device="cpu", on_row=told.append)
        assert told == rows
        kept = ResultStore(tmp_path / "results").run_at(spec.run_id).rows()
        assert [row.measure for row in rows] == list(kept)
        for row in rows:
            mine, theirs = row.to_json(), kept[row.measure].to_json()
            assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
            assert (row.seconds > 0) == (row.step > 0)
    assert sorted(tmp_path.rglob("*")) == before
    assert torch.get_deterministic_debug_mode() == 0


def test_a_notebook_may_write_its_class_anew_and_take_no_built_in_name(monkeypatch):
    monkeypatch.setattr(registry, "_classes", copy.deepcopy(registry._classes))
    cell = "from harness.api import *\n@register_precond({!r})\nclass Mine(DenoiserForm):\n  {}"
    for body in ("pass", "tangent = False"):
        exec(cell.format("anew", body), {"__name__": "__main__"})
    assert registry.get("precond", "anew").tangent is False
    with pytest.raises(ConfigError, match="two precond plugins are called 'ctm'"):
        exec(cell.format("ctm", "pass"), {"__name__": "__main__"})
