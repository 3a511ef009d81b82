"""A cell that goes wrong in its own way, with neighbours that do not notice: real workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.registry import registry
from harness.runner.watch import Watched
from harness.store.store import ResultStore
from tests.conftest import ROOT
from tests.faults import plan

#: objectives that do what `cd` does until something happens to them
FAULTY = """\
import os, pathlib, signal, time

from harness.api import Score, Metric, register_extractor, register_metric, register_objective
from harness.evaluate.extractors.raw import Raw
from harness.objectives.cd import ConsistencyDistillation


class Faulty(ConsistencyDistillation):
    def terms(self, student, target, teacher, batch):
        self.happens(batch)
        return super().terms(student, target, teacher, batch)

    def happens(self, batch):
        pass


@register_objective("diverging")
class Diverging(Faulty):
    def terms(self, student, target, teacher, batch):
        terms = super().terms(student, target, teacher, batch)
        return {"cd": lambda: terms["cd"]() * (float("nan") if batch.step == 13 else 1.0)}


@register_objective("greedy")
class Greedy(Faulty):
    def happens(self, batch):
        import torch

        if len(batch.x0) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot.")


@register_objective("crashing")
class Crashing(Faulty):
    def happens(self, batch):
        if batch.step == 3:
            os.kill(os.getpid(), signal.SIGSEGV)


@register_objective("full")
class Full(Faulty):
    pass


@register_objective("denied")
class Denied(Faulty):
    pass


@register_objective("fragile")
class Fragile(Faulty):
    def happens(self, batch):
        once = pathlib.Path(os.environ["ONCE"])
        if batch.step == 13 and os.environ.get("RANK") == "1" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@register_objective("endless")
class Endless(Faulty):
    def happens(self, batch):
        hung = pathlib.Path(os.environ["ONCE"]).with_name("hung")
        if batch.step == 12 and not hung.exists():
            hung.touch()
            time.sleep(3600)
        if batch.step > 25:
            time.sleep(0.3)


@register_extractor("greedy")
class GreedyRaw(Raw):
    def __call__(self, samples):
        import torch

        if len(samples) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot.")
        return super().__call__(samples)


@register_metric("patient")
class Patient(Metric):
    needs = "trajectory"

    def compute(self, samples, reference):
        if "HARNESS_ATTEMPT" in os.environ:  # in a worker, not where it is tried before
            pathlib.Path(os.environ["ONCE"]).touch()
            time.sleep(float(os.environ["SECONDS_A_NUMBER"]))
        return Score(1.0)
"""

GRID = {
    "version": 1,
    "name": "isolation",
    "axes": {"precond": ["ctm"], "teacher": ["gmm"], "objective": ["cd"], "seed": [0]},
    "train": {"batch": 16, "lr": 1e-3, "ema": 0.9, "checkpoint_every": 10, "log_every": 5},
    "backbone": {"width": 16, "depth": 1, "fit_steps": 20, "fit_batch": 64},
    "budgets": [10, 25],
    "evaluate": {"nfe": [1, 2], "samples": 100, "metrics": ["frechet"], "ode_steps": 32},
    "launch": {"device": "cpu", "slots": 2, "threads": 1, "grace": 1.0},
}


class Place:
    """A folder with a grid, faulty plugins, and ways to run them."""

    def __init__(self, folder, objectives, **changes):
        self.folder, self.results = folder, folder / "results"
        self.grid, self.plugin = folder / "grid.yaml", folder / "faulty.py"
        axes = {**GRID["axes"], "objective": objectives}
        grid = {**GRID, "axes": axes, "results": str(self.results), **changes}
        self.grid.write_text(yaml.safe_dump(grid))
        self.plugin.write_text(FAULTY)

    def start(self, *settings, environment=None):
        words = [sys.executable, "-m", "harness", "run", "--matrix", self.grid]
        words += ["--plugin", self.plugin]
        words += [word for setting in settings for word in ("--set", setting)]
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "ONCE": str(self.folder / "once"),
                "SECONDS_A_NUMBER": "0",
                **(environment or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code=0, *settings, **options):
        process = self.start(*settings, **options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, out + err
        return out, err

    def cell(self, objective):
        (path,) = (self.results / "runs").glob(f"ctm-gmm-{objective}-*")
        return path


def read(path):
    return json.loads(path.read_text())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def eventually(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One run of six cells: one does well, five do not."""
    folder = tmp_path_factory.mktemp("isolation")
    objectives = ["diverging", "greedy", "crashing", "full", "denied", "cd"]
    place = Place(folder, objectives)
    faults = [
        {"event": "fsync", "path": r"-full-.*/eval\.jsonl", "nth": 3, "what": "ENOSPC"},
        {"event": "open", "path": r"-denied-.*/train\.jsonl", "nth": 3, "what": "EACCES"},
    ]
    faults = [{"who": "worker", "tear": 0, **fault} for fault in faults]
    environment = plan.write(folder / "faults", place.results, faults)
    out, err = place.run(1, environment=environment)
    return place, out, err


@pytest.mark.slow
def test_the_healthy_neighbour_finishes(ended):
    place, out, err = ended
    assert read(place.cell("cd") / "status.json")["state"] == "done"
    assert len(lines(place.cell("cd") / "eval.jsonl")) == 4
    assert "Traceback" not in out + err
    assert len(err.splitlines()) < 12


@pytest.mark.slow
def test_divergence_names_its_step_and_keeps_the_last_good_checkpoint(ended):
    place, _, err = ended
    run = place.cell("diverging")
    status = read(run / "status.json")
    assert status["state"] == "diverged"
    assert status["reason"] == "loss 'cd' is not finite at step 13"
    assert f"{run.name}: diverged: loss 'cd' is not finite at step 13" in err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    assert [row["step"] for row in lines(run / "eval.jsonl")] == [10, 10]
    assert "attempt 2" not in (run / "worker.log").read_text()


def test_out_of_memory_in_an_evaluation_takes_fewer_samples_at_a_time(tmp_path):
    evaluate = {**GRID["evaluate"], "extractors": ["raw", "greedy"]}
    place = Place(tmp_path, ["cd"], evaluate=evaluate, budgets=[2])
    place.run()
    run = place.cell("cd")
    assert "out of memory: evaluation_batch is now 50" in (run / "worker.log").read_text()
    rows = lines(run / "eval.jsonl")
    assert len(rows) == 4
    for nfe in (1, 2):
        one, other = (row["value"] for row in rows if row["nfe"] == nfe)
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(ended):
    place, _, _ = ended
    run, other = place.cell("greedy"), place.cell("cd")
    assert read(run / "status.json")["state"] == "done"
    assert read(run / "provenance.json")["micro_batch"] == 8
    assert read(other / "provenance.json")["micro_batch"] == 16
    assert read(run / "spec.json")["train"]["batch"] == 16
    assert [row["images"] for row in lines(run / "eval.jsonl")] == [160, 160, 400, 400]
    assert "out of memory: micro_batch is now 8" in (run / "worker.log").read_text()
    mine, theirs = (load_file(r / "ema" / "step-00000025.safetensors") for r in (run, other))
    for name, value in mine.items():
        assert float((value - theirs[name]).abs().max()) < 1e-6


@pytest.mark.slow
def test_a_worker_that_dies_twice_has_failed(ended):
    place, _, err = ended
    run = place.cell("crashing")
    status = read(run / "status.json")
    assert (status["state"], status["attempts"]) == ("failed", 2)
    assert status["reason"] == f"the worker was killed (SIGSEGV); see {run.name}/worker.log"
    assert f"{run.name}: failed: the worker was killed (SIGSEGV)" in err


@pytest.mark.slow
def test_a_full_disk_and_a_refused_file_are_named_and_cost_nothing(ended):
    place, _, err = ended
    full, denied = place.cell("full"), place.cell("denied")
    reason = read(full / "status.json")["reason"]
    assert reason.endswith(
        "eval.jsonl: No space left on device; free some space, the same command continues"
    )
    assert full.name in reason
    assert reason in err
    kept = (full / "eval.jsonl").read_text().splitlines()
    assert "train.jsonl: Permission denied" in read(denied / "status.json")["reason"]
    place.run(0, "axes.objective=[full, denied, cd]")
    whole = (full / "eval.jsonl").read_text().splitlines()
    assert whole[:2] == kept[:2]
    expected = [(row["step"], row["nfe"], row["value"]) for row in lines_of(place, "cd")]
    for objective in ("full", "denied"):
        found = [(row["step"], row["nfe"], row["value"]) for row in lines_of(place, objective)]
        assert found == expected
        weights = "ema/step-00000025.safetensors"
        assert (place.cell(objective) / weights).read_bytes() == (
            place.cell("cd") / weights
        ).read_bytes()


def lines_of(place, objective):
    return lines(place.cell(objective) / "eval.jsonl")


def workers(place):
    """Processes of a place's cells, other than those that have ended and wait to be collected."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if f"harness.train {place.results}" in line and process.status() != "zombie":
                yield process


@pytest.mark.slow
def test_two_processes_end_with_their_runner_and_with_each_other(tmp_path):
    """kill -9 of the runner ends both ranks; kill -9 of a rank is named, and tried again."""
    place = Place(tmp_path, ["fragile"])
    two = ["launch.processes=2", "launch.slots=1"]
    process = place.start(*two)
    saved = "runs/*/checkpoints/step-00000010"
    eventually(lambda: any(place.results.glob(saved)))
    assert len(list(workers(place))) == 2
    process.kill()
    process.communicate()
    eventually(lambda: not list(workers(place)), seconds=10)
    (tmp_path / "once").unlink(missing_ok=True)  # if it came that far
    place.run(0, *two)
    log = (place.cell("fragile") / "worker.log").read_text()
    assert "--- process 1 was killed (SIGKILL, by hand or for want of memory)" in log
    assert "attempt 2" in log
    assert "resumed from step-00000010" in log
    assert read(place.cell("fragile") / "status.json")["state"] == "done"
    rows = [(row["step"], row["nfe"]) for row in lines_of(place, "fragile")]
    assert rows == [(10, 1), (10, 2), (25, 1), (25, 2)]


@pytest.fixture
def forgotten():
    """Plugins that a test loads into this process are no business of other tests."""
    yield
    for classes in registry._classes.values():
        for name in [n for n, cls in classes.items() if cls.__module__ == "harness_plugin_faulty"]:
            del classes[name]
    sys.modules.pop("harness_plugin_faulty", None)


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
def test_a_hang_then_a_timeout_then_interrupts(tmp_path, monkeypatch):
    """A hung worker starts again; launch.timeout keeps a checkpoint; Ctrl-C finishes the row; a
    second one does not wait. Clocks are set forward, so that limits need not be short."""
    evaluate = {**GRID["evaluate"], "metrics": ["patient"]}
    place = Place(tmp_path, ["endless"], budgets=[10, 40], evaluate=evaluate)
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    monkeypatch.setenv("SECONDS_A_NUMBER", "0")
    registry.load_file(place.plugin)
    grid = load_grid(place.grid)
    matrix = expand(grid, plugins=[str(place.plugin)])
    run = ResultStore(grid.results).prepare().open(matrix.specs[0])
    run.write_request(matrix.request)
    watched = Watched(run, grid.launch.model_copy(update={"timeout": 90.0, "stall": 60.0}))
    eventually((tmp_path / "hung").exists)

    def started_again():
        watched._alive -= 3600
        return watched.poll() or watched.attempts == 2

    eventually(started_again, seconds=30)
    assert "no sign of life for 60 minutes" in (run.path / "worker.log").read_text()
    eventually(lambda: watched.poll() or run.status().get("step", 0) > 26)
    watched._started -= 5400
    eventually(watched.poll, seconds=30)
    status = run.status()
    assert (status["state"], status["attempts"]) == ("timeout", 2)
    assert status["reason"] == "it ran for 90 minutes (launch.timeout)"
    assert f"step-{status['step']:08d}" in {p.name for p in (run.path / "checkpoints").iterdir()}

    once = tmp_path / "once"
    once.unlink()
    process = place.start(environment={"SECONDS_A_NUMBER": "1.5"})
    eventually(once.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues from here" in err
    assert [(row["step"], row["nfe"]) for row in lines_of(place, "endless")] == [
        *((10, 1), (10, 2)),
        (40, 1),
    ]
    assert run.status()["state"] == "interrupted"
    assert f"resumed from step-{status['step']:08d}" in (run.path / "worker.log").read_text()

    once.unlink()
    process = place.start(environment={"SECONDS_A_NUMBER": "60"})
    eventually(once.exists)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert run.status()["reason"] == "interrupted before it could save"
    assert len(lines_of(place, "endless")) == 3
