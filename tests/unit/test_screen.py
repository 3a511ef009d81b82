"""`screen`: two numbers from before training, and what the published studies say they are worth."""

import importlib.util
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.api import create, create_precond
from harness.evaluate.gap import measure_gaps
from harness.evaluate.screen import ACCURACY, relative, screen

NAMES = ("ctm", "edm")
ROOT = Path(__file__).parents[2]


def test_accuracy_is_that_of_the_published_pairs():
    path = ROOT / "grids/studies/predict.py"
    spec = importlib.util.spec_from_file_location("predict", path)
    predict = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(predict)
    table = predict.correlations(pd.read_csv(ROOT / "results/prediction.csv"))
    column = {"error before training": "untrained", "amplification": "amplification"}
    for said in ACCURACY:
        found = table[table["study"] == said.study].set_index("nfe")
        assert found["pairs"].tolist() == [said.pairs] * 3
        rho = found.loc[[1, 2, 5], f"{column[said.number]} ~ {said.part}"]
        assert said.rho == pytest.approx(rho.tolist(), abs=0.006)
    assert len(ACCURACY) == 4 * table["study"].nunique()


def test_numbers_are_those_of_one_jump_over_the_end_of_it():
    teacher = create("teacher", "gmm", {})
    preconds = {name: create_precond(name, sigma_data=teacher.spec.sigma_data) for name in NAMES}
    data = teacher.dataset()
    rows = {row.precond: row for row in screen(preconds, teacher, data, "ctm", [1], 256)}
    assert rows["ctm"][2:] == (1.0, 1.0)
    levels = torch.tensor([teacher.spec.sigma_max, teacher.spec.sigma_min], dtype=torch.float64)
    gaps = measure_gaps(preconds, teacher, data, levels, 256)
    (gap,) = (gap for (name, *_), gap in gaps.items() if name == "ctm")
    assert relative([gap], "untrained") == pytest.approx(gap.untrained / gap.size)
    # out of ctm at t = sigma_max, s = sigma_min, see docs/mathematics.md: (1 - s/t) c_out(t)
    t, s, sd = teacher.spec.sigma_max, teacher.spec.sigma_min, teacher.spec.sigma_data
    out = (1 - s / t) * t * sd / math.sqrt(t**2 + sd**2)
    assert gap.amplification == pytest.approx(out, rel=1e-9)


def test_ranks_the_preconditionings_of_a_grid(harness, grid):
    code, out, err = harness("screen", "--matrix", grid, "--samples", "64")
    assert (code, err) == (0, "")
    for nfe in (1, 2, 5):
        assert f"NFE {nfe}: ratios to ctm" in out
    assert out.count("analytic") == 3
    assert "rank correlations" in out
    assert list((grid.parent / "results" / "artifacts").rglob("*.safetensors"))
    assert not list((grid.parent / "results" / "runs").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", "1"], "--samples must be 2 or more"),
        (["--only", "precond=analytic"], "baseline 'ctm' is not among"),
    ],
)
def test_refuses(harness, grid, words, said):
    code, _, err = harness("screen", "--matrix", grid, *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
