"""`eval --student`: published students in the leaderboard of a grid, measured as its own are."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.unit.test_openai_teacher import PUBLISHED

CM = "cm: {resolution: 16, head_channels: 32}"


@pytest.fixture
def small_images(tmp_path):
    """A grid of 16x16 images in 10 classes whose teacher and students are small published files."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for k in range(10):
        image = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{k}.png")
    labels = {"labels": [[f"{k}.png", k] for k in range(10)]}
    (folder / "dataset.json").write_text(json.dumps(labels))
    weights = str(PUBLISHED / "edm_small_ema.pt")
    teacher = {"openai": {"weights": weights, "resolution": 16, "head_channels": 32}}
    grid = {
        "version": 1,
        "name": "small",
        "axes": {
            "precond": ["ctm"],
            "teacher": [teacher],
            "dataset": [{"folder": {"path": str(folder), "labels": True}}],
        },
        "train": {"batch": 4},
        "budgets": [0],
        "evaluate": {"nfe": [1, 2], "samples": 4, "ode_steps": 16},
        "launch": {"device": "cpu", "threads": 1},
        "results": str(tmp_path / "results"),
    }
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(grid))
    return path


def board(grid):
    with (grid.parent / "results" / "tables" / "small" / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def test_published_students_are_measured_as_a_grids_own_and_marked(small_images, harness):
    ask = ("eval", "--matrix", small_images, "--student")
    code, out, err = harness(*ask, PUBLISHED / "ctm_small.pt")
    assert code == 0, out + err
    assert "published models, trained elsewhere" in out
    code, out, err = harness(*ask, PUBLISHED / "edm_small_ema.pt", "--format", CM)
    assert code == 0, out + err
    runs = sorted((small_images.parent / "results" / "runs").iterdir())
    kept = {run.name: (run / "eval.jsonl").read_text() for run in runs}
    assert [len(text.splitlines()) for text in kept.values()] == [4, 4]

    code, out, err = harness("run", "--matrix", small_images, "--set", "evaluate.nfe=[1]")
    assert code == 0, out + err
    found = {(row["objective"], row["precond"], row["sampler"]) for row in board(small_images)}
    assert found == {
        ("ctm", "ctm", "exact"),
        ("published", "ctm_small", "exact"),
        ("published", "edm_small_ema(head_channels=32, resolution=16)", "stochastic"),
    }
    assert {row["seeds"] for row in board(small_images)} == {"1"}
    speed = small_images.parent / "results" / "tables" / "small" / "speed.csv"
    assert "published" not in speed.read_text()
    code, out, _ = harness(*ask, PUBLISHED / "ctm_small.pt")
    assert code == 0
    for run in runs:
        assert (run / "eval.jsonl").read_text() == kept[run.name], "nothing is measured twice"
    code, out, _ = harness("plan", "--matrix", small_images)
    assert "-published-s0-" not in out
    # the same network, sampled in one step from the same noise: the student at step 0 is the CM
    # but for where its range ends
    values = {
        r["precond"]: float(r["median"])
        for r in board(small_images)
        if r["nfe"] == "1" and r["metric"] == "alignment"
    }
    cm, own = values["edm_small_ema(head_channels=32, resolution=16)"], values["ctm"]
    assert cm == pytest.approx(own, rel=0.02)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["ctm_small.pt"], "--matrix"),
        (["ctm_small.pt", "--matrix", "GRID", "ctm-run"], "not both"),
        (["ect.pkl", "--matrix", "GRID"], "it has 0 classes, the grid's teacher has 10"),
        (
            ["edm_small_ema.pt", "--matrix", "GRID", "--format", CM, "--samplers", "exact"],
            "a student of format 'cm' was trained on jumps to sigma_min alone; use stochastic",
        ),
        (
            ["ctm_small.pt", "--matrix", "GRID", "--samplers", "exact@trained"],
            "does not tell the times",
        ),
        (["ctm_small.pt", "--matrix", "GRID", "--format", "ctmm"], "did you mean 'ctm'"),
        (["nothing.pt", "--matrix", "GRID"], "no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(small_images, harness, options, says):
    file, *more = (small_images if option == "GRID" else option for option in options)
    code, out, err = harness("eval", "--student", PUBLISHED / file, *more)
    assert code == 2, out + err
    assert says in err
    assert err.count("\n") == 1
    assert not list((small_images.parent / "results").glob("runs/*/eval.jsonl"))
