"""What is measured: samplers, averages, evaluation seeds and metrics with parameters, in a grid."""

import json

import pytest

from harness.store.run import Run
from harness.store.store import ResultStore


def rows(results):
    """All rows of all runs, as they stand in eval.jsonl."""
    paths = sorted((results / "runs").glob("*/eval.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def ask(harness, grid, *settings, verb="run", code=0):
    """Run a verb on a grid with `--set`s; returns (stdout, stderr)."""
    options = [option for setting in settings for option in ("--set", setting)]
    found, out, err = harness(verb, "--matrix", grid, *options)
    assert found == code, out + err
    return out, err


@pytest.fixture
def small(grid):
    """The tiny grid with one closed-form preconditioning, so that a run takes a second."""
    text = grid.read_text().splitlines()
    text = ["  precond: [ctm]" if line.startswith("  precond:") else line for line in text]
    grid.write_text("\n".join([*text, ""]))
    return grid


def test_samplers_metrics_and_seeds_add_what_is_missing_and_no_more(small, harness, tmp_path):
    results = tmp_path / "results"
    ask(harness, small)
    first = rows(results)
    assert {(row["sampler"], row["ema"], row["seed"]) for row in first} == {("exact", None, 0)}
    run = next((results / "runs").iterdir())
    weights = {path.name: path.stat().st_mtime_ns for path in (run / "ema").iterdir()}

    more = "evaluate.samplers=[exact, {exact: {times: trained}}, {gamma: {gamma: 0.5}}]"
    out, _ = ask(harness, small, more)
    found = rows(results)
    assert found[: len(first)] == first
    assert len(found) == 3 * len(first)
    assert {row["sampler"] for row in found} == {"exact", "exact@trained", "gamma0.5"}
    for name in ("exact", "exact@trained", "gamma0.5"):
        assert f"sampler {name};" in out
    by_nfe = {
        nfe: {
            r["value"] for r in found if (r["nfe"], r["step"], r["metric"]) == (nfe, 25, "frechet")
        }
        for nfe in (1, 2)
    }
    assert len(by_nfe[1]) == 1, "one step is the same jump for every sampler"
    assert len(by_nfe[2]) == 3
    assert weights == {p.name: p.stat().st_mtime_ns for p in (run / "ema").iterdir()}, "no training"

    out, _ = ask(harness, small, "evaluate.seed=5", verb="plan")
    assert f"{len(first)} missing" in out
    metrics = "evaluate.metrics=[frechet, {sliced-wasserstein: {directions: 8}}]"
    ask(harness, small, metrics)
    named = {row["metric"] for row in rows(results)}
    assert named == {"frechet", "alignment", "sliced-wasserstein(directions=8)"}
    assert sorted(p.name for p in (run / "samples").glob("*nfe2*")) == [
        f"step-000000{step}-nfe2{name}.json"
        for step in (10, 25)
        for name in ("-exact@trained", "-gamma0.5", "")
    ]


def test_averages_are_kept_while_training_and_cannot_be_made_up(small, harness, tmp_path):
    results = tmp_path / "results"
    kept = "train.eval_ema=[0.9, 0.5, 0]"
    out, _ = ask(harness, small, kept)
    found = rows(results)
    assert {row["ema"] for row in found} == {None, 0.5, 0.0}  # .9 is the target's own
    values = {row["value"] for row in found if (row["nfe"], row["step"]) == (1, 25)}
    assert len(values) == 6, "two metrics, three averages"
    assert "EMA 0.5;" in out
    run = Run(next((results / "runs").iterdir()))
    (run.path / "eval.jsonl").unlink()
    ask(harness, small, kept)  # from the weights, which are read for every average
    assert rows(results) == found

    before = sorted(run.path.rglob("*"))
    _, err = ask(harness, small, "train.eval_ema=[0.9, 0.25]", code=2)
    assert "was trained without an EMA of rate 0.25" in err
    assert f"move {run.path} away" in err
    assert sorted(run.path.rglob("*")) == before

    code, out, err = harness("eval", "--results", results, "--ema", "0.25", "--samplers", "exact")
    assert code == 1
    assert "without an EMA of rate 0.25" in err
    out = harness("eval", "--results", results, "--ema", "0.5", "--samplers", "stochastic")[1]
    assert "stochastic, EMA 0.5  alignment" in out


def test_an_average_goes_on_from_a_checkpoint(small, harness, tmp_path):
    """Extending a run gives the weights that one long training gives, for every average."""
    kept = "train.eval_ema=[0.5]"
    ask(harness, small, kept, "budgets=[10]")
    ask(harness, small, kept, "budgets=[10, 25]")
    elsewhere = tmp_path / "elsewhere"
    ask(harness, small, kept, "budgets=[25]", f"results={elsewhere}")
    (one,), (two,) = (list(ResultStore(r).runs()) for r in (tmp_path / "results", elsewhere))
    for ema in (None, 0.5):
        assert one.weights(25, ema).read_bytes() == two.weights(25, ema).read_bytes()


def test_cd_is_sampled_as_it_is_trained_and_otherwise_only_by_name(small, harness, tmp_path):
    both = "axes.objective=[ctm, cd]"
    out, err = ask(harness, small, both)
    found = rows(tmp_path / "results")
    assert {row["sampler"] for row in found} == {"exact", "stochastic"}
    assert len(found) == 2 * 2 * 2 * 2
    assert "never trains" not in out + err
    out, err = ask(harness, small, both, "evaluate.samplers=[exact]")
    assert "sampler exact at NFE 2 asks students of objective cd for jumps that it never" in err
    assert len(rows(tmp_path / "results")) == len(found) + 2 * 2 * 2


BAD = {
    "evaluate.samplers=[heun]": "'heun' is no sampler: write exact",
    "evaluate.samplers=['exact@80,5,1']": "is for 3 steps, which evaluate.nfe (1, 2) does not",
    "evaluate.samplers=['exact@70,1']": "the first level must be the teacher's sigma_max, 80",
    "evaluate.samplers=['exact@80,0.001']": "is not above the teacher's sigma_min",
    "evaluate.samplers=[{exact: {times: {2: [1, 80]}}}]": "levels must be numbers that decrease",
    "evaluate.metrics=[{kid: {subset: 5}}]": "subset: unknown parameter (did you mean 'subsets'",
    "train.eval_ema=[1.0]": "train.eval_ema",
}


@pytest.mark.parametrize(("setting", "told"), BAD.items(), ids=list(BAD))
def test_what_cannot_be_measured_is_refused_before_training(
    small, harness, tmp_path, setting, told
):
    _, err = ask(harness, small, setting, code=2)
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "results" / "runs").exists()


def test_more_steps_than_the_training_grid_are_refused(small, harness, tmp_path):
    settings = ("evaluate.nfe=[1, 18]", "evaluate.samplers=[exact@trained]")
    _, err = ask(harness, small, *settings, code=2)
    assert "18 steps need 19 levels, and the objective trains on 18" in err
    assert not (tmp_path / "results" / "runs").exists()


EVAL_BAD = {
    ("--samplers", "heun"): "'heun' is no sampler: write exact",
    ("--samplers", "exact@1,80"): "levels must be numbers that decrease",
    ("--samplers", "exact@90,1"): "the first level must be the teacher's sigma_max, 80",
    ("--samplers", "exact@80,0.001"): "is not above the teacher's sigma_min",
    ("--samplers", "exact@80,5,1"): "has levels for other numbers of steps than 1, 2",
    ("--samplers", "exact@trained", "--nfe", "18"): "18 steps need 19 levels",
}


def test_eval_refuses_what_a_grid_would(small, harness, tmp_path):
    ask(harness, small, "budgets=[2]")
    results = tmp_path / "results"
    before = rows(results)
    for words, told in EVAL_BAD.items():
        code, _, err = harness("eval", "--results", results, *words)
        assert (code, told in err, len(err.splitlines())) == (2, True, 1), err
    assert rows(results) == before


def test_roundings_of_images_never_meet_in_one_column(tmp_path, harness):
    results, grid = tmp_path / "results", tmp_path / "grid.yaml"
    text = {
        "version": 1,
        "name": "rounded",
        "axes": {"precond": ["ctm"], "teacher": ["unet"], "objective": [{"cd": {"nodes": 3}}]},
        "train": {"batch": 4},
        "budgets": [0],
        "evaluate": {"nfe": [1], "samples": 8, "ode_steps": 16},
        "launch": {"device": "cpu", "threads": 1},
        "results": str(results),
    }
    grid.write_text(json.dumps(text))
    ask(harness, grid)
    edm = rows(results)
    ask(harness, grid, "evaluate.rounding=ctm")
    both = rows(results)
    assert both[: len(edm)] == edm
    (ctm,) = both[len(edm) :]
    assert (ctm["metric"], ctm["extractor"]) == ("frechet", "raw~ctm"), "alignment rounds nothing"
    (same,) = (row for row in edm if row["metric"] == "frechet")
    assert same["extractor"] == "raw"
    assert ctm["extractor_id"] == same["extractor_id"] + "~ctm"
    assert ctm["value"] != same["value"]
    table = (results / "tables" / "rounded" / "leaderboard.csv").read_text()
    assert ctm["extractor_id"] in table
    _, err = ask(harness, grid, "evaluate.rounding=floor", code=2)
    assert "evaluate.rounding" in err


def test_vectors_are_not_rounded(small, harness):
    _, err = ask(harness, small, "evaluate.rounding=ctm", code=2)
    assert "leave out evaluate.rounding" in err
