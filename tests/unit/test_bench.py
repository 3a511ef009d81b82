"""`bench`: what is counted is what is asked, what was measured is what `plan` forecasts from."""

import itertools
import json

import pytest
import torch
from accelerate import Accelerator

from harness.api import create
from harness.bench.forecast import duration, find, forecast
from harness.bench.meter import Meter
from harness.bench.problem import at_mean
from harness.bench.stand_in import NETWORKS
from harness.bench.steps import StepBench
from harness.cli import bench as verb
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.core.random import integers
from harness.registry import registry
from harness.store.store import ResultStore
from harness.train.machine import Machine
from harness.train.step import gradients
from tests.cells import cell_of
from tests.unit.test_imports import run_without_torch
from tests.unit.test_training import make_cell


@pytest.mark.parametrize("project", [True, False])
def test_evaluations_are_rows_forward_and_backward(project):
    """Student: 3 (estimate) + 3 (denoising) + moving; EMA: 3 x noisy; an exact teacher: nothing."""
    cell, batch = make_cell(project=project), 64
    for step in range(4):
        with Meter(cell, torch.device("cpu")).attached() as meter:
            gradients(cell, step, 32, Accelerator(cpu=True), meter.watch)
        h, batch_index = cell.objective.draw_steps(0, step), torch.arange(batch)
        i = integers(0, "time", step, batch_index, 0, 17 - h)
        j = integers(0, "end", step, batch_index, i + h, 17)
        moving, noisy = int((j > i + h).sum()), int((j < 17).sum()) * project
        assert meter.evaluations * batch == pytest.approx(6 * batch + moving + 3 * noisy)
        assert {item.kind for item in meter.passes} <= {"target", "ctm", "dsm"}
        assert all(item.seconds > 0 for item in meter.passes)
        assert sum(item.seconds for item in meter.passes) < sum(meter.parts.values())
    assert "network" not in vars(cell.network)  # nothing is left behind


def test_an_average_step_of_a_training_needs_8_evaluations_besides_the_solver():
    """What docs/speed.md says of all draws together; at a fixed h it is more, or less."""
    objective, batch_index, rest = create("objective", "ctm", {}), torch.arange(64), []
    for step in range(2000):
        h = objective.draw_steps(0, step)
        i = integers(0, "time", step, batch_index, 0, 17 - h)
        j = integers(0, "end", step, batch_index, i + h, 17)
        rest.append(6 + float((j > i + h).double().mean()) + 3 * float((j < 17).double().mean()))
    assert sum(rest) / len(rest) == pytest.approx(8.0, abs=0.05)


def test_bench_measures_a_network_teacher_and_counts_its_evaluations(harness, tmp_path):
    code, out, err = harness(
        *("bench", "--network", "small", "--batch", "2", "--h", "1,2", "--rounds", "1"),
        *("--json", "--device", "cpu", "--results", tmp_path),
    )
    assert code == 0, err
    found = json.loads(out)
    (problem,) = found["problems"]
    assert problem["parameters"] > 1e6
    evaluations = problem["step_flop"] / problem["F_flop"]
    assert 2 * problem["mean_h"] + 6 <= evaluations <= 2 * problem["mean_h"] + 10
    for step, h in zip(found["steps"], (1, 2, 17), strict=False):
        assert step["h"] == h
        assert 2 * h + 6 <= step["evaluations"] <= 2 * h + 10
        assert 0 < step["overhead"] < 1
        assert {"teacher", "target", "ctm", "dsm", "optimizer", "ema", "data"} <= set(step["parts"])
        assert all(part >= 0 for part in step["parts"].values())  # how long is the machine's affair
        assert step["measured_F"] > 0
    assert problem["evaluation"]["extract"]["raw"] > 0
    assert problem["evaluation"]["jump"] > 0


def test_flop_of_a_published_network():
    """EDM's DDPM++ for CIFAR-10 takes 42.4 GFLOP an image, an embedding of s hardly more."""
    cell = cell_of({"stand-in": {"network": "cifar10"}}, train={"batch": 1})
    assert StepBench(cell, Machine(torch.device("cpu")), None).unit_flop() == pytest.approx(
        42.4e9, rel=0.01
    )


def test_plan_forecasts_from_what_was_measured(harness, grid, tmp_path, monkeypatch):
    results = tmp_path / "results"
    before = run_without_torch("plan", "--matrix", grid)
    assert "no forecast for gmm x ctm: measure it with `python -m harness bench" in before.stdout
    named = run_without_torch("plan", "--matrix", grid, "--set", "name=other name")
    assert named.returncode == 2
    named = run_without_torch("plan", "--matrix", grid, "--set", "name=other")
    assert f"bench --matrix {grid} --set name=other`" in named.stdout
    code, out, err = harness("bench", "--matrix", grid, "--rounds", "1", "--h", "4,12")
    assert code == 0, err
    assert "forecast: about" in out
    assert "gmm x ctm" in out
    after = run_without_torch("plan", "--matrix", grid)
    assert after.returncode == 0, after.stderr
    assert "forecast: about" in after.stdout
    assert "no forecast" not in after.stdout
    for changed, known in (("train.lr=0.5", True), ("train.batch=64", False)):
        done = run_without_torch("plan", "--matrix", grid, "--set", changed)
        assert ("no forecast" not in done.stdout) == known, changed
    (path,) = (results / "bench").glob("*.json")
    denoise = json.loads(path.read_text())["evaluation"]["denoise"]
    parts = {
        names: forecast(expand(load_grid(grid, [f"axes.precond=[{names}]"])), ResultStore(results))
        for names in ("ctm", "ctm, arc, lsq, analytic")
    }
    told = [each.once for each in parts.values()]
    ours = 2048 * 197 + 4096 * 121  # arc and lsq share one
    assert told[1] - told[0] == pytest.approx(denoise * ours)
    monkeypatch.setattr(registry.get("precond", "arc"), "calibration_evaluations", lambda _: None)
    matrix = expand(load_grid(grid, ["axes.precond=[ctm, arc]"]))
    assert "; without calibrating arc)" in forecast(matrix, ResultStore(results)).text("")
    path.write_text("{")
    assert "no forecast" in run_without_torch("plan", "--matrix", grid).stdout


def test_a_record_of_a_machine_like_this_goes_before_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.bench.forecast.processor", lambda: "Abacus 3")
    store = ResultStore(tmp_path)
    (tmp_path / "bench").mkdir()
    for name, hardware, made in (("a", "1 x Abacus 3, 2 threads", "2026"), ("b", "Z", "2027")):
        record = {"format": 1, "problem": {"p": 1}, "hardware": hardware, "made": made}
        (tmp_path / "bench" / f"{name}.json").write_text(json.dumps(record))
    assert find(store, {"p": 1})["made"] == "2026"
    on_gpu = {"format": 1, "problem": {"p": 1}, "hardware": "1 x G", "made": "2025"}
    (tmp_path / "bench" / "c.json").write_text(json.dumps(on_gpu | {"device": "cuda"}))
    assert find(store, {"p": 1})["made"] == "2026"
    assert find(store, {"p": 1}, gpu=True)["made"] == "2025"
    assert find(store, {"p": 2}) is None


def test_cost_at_the_mean_h_lies_on_the_line():
    steps = [{"h": h, "measured_F": 9 + 2 * h} for h in (1, 4, 12)]
    for mean in (1, 2.5, 4, 11.67, 14):
        assert at_mean(steps, "measured_F", mean) == pytest.approx(9 + 2 * mean)
    assert at_mean([{"h": None, "measured_F": 6.0}], "measured_F", None) == 6.0


def test_solver_table_and_switches(harness, tmp_path):
    code, out, err = harness(
        *("bench", "--solvers", "--teacher", "gmm", "--h", "1,2", "--json"),
        *("--objective", "ctm: {nodes: 12}", "--results", tmp_path),
    )
    assert code == 0, err
    assert "h = 1, 2 from 11 noise levels" in err
    errors = {(row["solver"], row["h"]): row["error"] for row in json.loads(out)["steps"]}
    assert set(errors) == set(itertools.product(("heun", "unipc"), (1, 2)))
    assert errors["heun", 1] < errors["unipc", 1]
    code, out, err = harness(
        *("bench", "--switches", "channels_last", "--batch", "2", "--h", "1", "--rounds", "1"),
        *("--json", "--device", "cpu", "--results", tmp_path),
    )
    assert code == 0, err
    assert [row["switches"] for row in json.loads(out)] == ["none", "channels_last"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--h", "0"], "--h 0: write numbers"),
        (["--only", "seed=0"], "--only chooses from a grid"),
        (["--matrix", "grids/quickstart.yaml", "--batch", "8"], "--batch: a grid decides it"),
        (["--solvers", "--device", "cpu"], "--device: --solvers times nothing"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
        (["--switches", "turbo"], "choose from bf16, channels_last, compile"),
        (["--teacher", "gmx"], "did you mean 'gmm'"),
    ],
)
def test_mistakes_are_one_sentence(harness, tmp_path, arguments, sentence):
    code, _, err = harness("bench", *arguments, "--results", tmp_path)
    assert code == 2
    assert sentence in err


def test_names_of_networks_are_known_without_importing_them():
    assert set(verb.NETWORKS) == set(NETWORKS)
    assert [duration(s) for s in (40, 600, 7200 * 2, 86400 * 3)] == [
        "40 s",
        "10 min",
        "4.0 h",
        "3.0 days",
    ]
