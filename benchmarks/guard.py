"""Has something become slower? Ratios of times measured here, against those in ratios.json.

    python benchmarks/guard.py            # `make bench`: a table; exit code 1 if a ratio has grown
    python benchmarks/guard.py --update   # write what was measured, after a change that was meant

A time says as much of the machine as of the code; a ratio of two times of the same minute says much
less of it. Each is a median over interleaved pairs, of processor time where one process does both.
Only growth beyond a ratio's tolerance is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tabulate import tabulate

from harness.api import create
from harness.backbones.dropout import Dropout, hold_draws
from harness.bench.problem import bench_cell
from harness.bench.stand_in import StandIn
from harness.bench.steps import StepBench
from harness.config.grid import load_grid, make_grid
from harness.config.matrix import expand
from harness.core.sampling import Walk, fresh_noise
from harness.store.files import write_json
from harness.store.store import ResultStore
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer
from harness.train.torch_settings import repeatable

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).with_name("ratios.json")
#: how much a ratio may grow: processes started anew scatter more than code in one process
TOLERANCE, LOOSE = 0.15, 0.35
# neither process tidies up behind itself: that takes torch half a second
READ_WEIGHTS = """
import os, safetensors.torch, torch
safetensors.torch.load_file("teachers/weights/digits.safetensors")
os._exit(0)
"""
FIRST_STEP = """
import os, sys, harness.train.loop as loop, harness.train.worker as worker
loop.take_step = lambda *arguments: os._exit(0)
worker.main(sys.argv[1])
sys.exit("the worker ended before its first step")
"""
BATCH, ROUNDS = 16, 5


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="store what is measured now")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeatable()
    found = {**steps(), **pieces(), **starts()}
    if args.update:
        rounded = {name: {"ratio": round(r, 3), "tolerance": t} for name, (r, t) in found.items()}
        STORED.write_text(json.dumps(rounded, indent=1) + "\n")
        print(f"written: {STORED}")
        return 0
    stored = json.loads(STORED.read_text())
    rows, slower = [], []
    for name, (ratio, _) in found.items():
        kept = stored[name]
        limit = kept["ratio"] * (1 + kept["tolerance"])
        verdict = "slower" if ratio > limit else ""
        slower += [name] if verdict else []
        rows.append([name, f"{kept['ratio']:.3f}", f"{ratio:.3f}", f"{limit:.3f}", verdict])
    print(tabulate(rows, headers=["ratio", "stored", "now", "limit", ""], disable_numparse=True))
    return 1 if slower else 0


def steps() -> dict[str, tuple[float, float]]:
    """CTM+DSM steps in units of a forward pass, on the 1.2M network."""
    assert StandIn.name == "stand-in"  # importing it has made it known
    found = {}
    for solver in ("heun", "unipc"):
        data = {
            "version": 1,
            "name": "guard",
            "axes": {
                "precond": ["ctm"],
                "teacher": ["stand-in"],
                "objective": [{"name": "ctm", "params": {"solver": solver}}],
            },
            "train": {"batch": BATCH},
            "budgets": [1],
        }
        matrix = expand(make_grid(data, [], "guard"))
        machine = Machine(torch.device("cpu"))
        cell = bench_cell(matrix.specs[0], matrix.request, Path("results"), machine.device)
        bench = StepBench(cell, machine, None)
        for cost in bench.measure(ROUNDS, (1, 4)):
            found[f"step, {solver}, h = {cost.h} / F"] = (cost.cpu_F or 0.0, TOLERANCE)
            found[f"evaluations, {solver}, h = {cost.h}"] = (cost.evaluations, 0.01)
    noise = torch.randn(BATCH, *cell.teacher.spec.shape)
    cell.target.eval()
    spec, student = cell.teacher.spec, cell.ema_student
    walk, fresh = Walk.of("exact", 2, spec), fresh_noise(0, torch.arange(BATCH), spec.shape)
    jumps = pairs(lambda: walk.end(student, noise, fresh), bench.unit, ROUNDS)
    return {**found, "sampling with 2 jumps / F": (jumps, TOLERANCE)}


def pieces() -> dict[str, tuple[float, float]]:
    """Optimizers and dropout against the plain way."""
    network = create("teacher", "stand-in").network()
    parameters = list(network.parameters())
    grads = [torch.randn_like(p) for p in parameters]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    found = {}
    for name, plain in (("adam", torch.optim.Adam), ("radam", torch.optim.RAdam)):
        ours, theirs = Optimizer(name, parameters, 1e-4), plain(parameters, lr=1e-4, foreach=False)
        for _ in range(8):  # RAdam changes its formula after some steps
            ours.step(grads)
            theirs.step()
        ratio = pairs(lambda o=ours: o.step(grads), theirs.step, 4 * ROUNDS)
        found[f"{name} / torch.optim's plain loop"] = (ratio, TOLERANCE)
    x = torch.randn(BATCH, 64, 16, 16)
    layer, conv = Dropout(0.1), torch.nn.Conv2d(64, 64, 3, padding=1)
    hold_draws(layer, 0, 0, torch.arange(BATCH))
    with torch.no_grad():
        ratio = pairs(lambda: layer(x), lambda: conv(x), 4 * ROUNDS)
    return {**found, "dropout / 3x3 convolution": (ratio, LOOSE)}


def starts() -> dict[str, tuple[float, float]]:
    """What commands and workers take to start, in imports of what they cannot do without."""

    # users have their modules compiled once
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def python(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=env, check=True, capture_output=True
        )

    plan = python("-m", "harness", "plan", "--matrix", "grids/quickstart.yaml")
    status = python("-m", "harness", "status", "results/quickstart")
    numpy = python("-c", "import numpy, pydantic, yaml")
    pandas = python("-c", "import pandas")
    with tempfile.TemporaryDirectory() as folder:
        published = shutil.copytree(ROOT / "results/quickstart", Path(folder) / "published")
        report = python("-m", "harness", "report", str(published), "--table", "speed")
        again = python("-m", "harness", "report", str(published))
        first_step = python("-c", FIRST_STEP, str(prepared_run(Path(folder))))
        weights = python("-c", READ_WEIGHTS)
        return {
            "plan / import numpy, pydantic, yaml": (
                pairs(plan, numpy, ROUNDS, children=True),
                LOOSE,
            ),
            "status / import numpy, pydantic, yaml": (
                pairs(status, numpy, ROUNDS, children=True),
                LOOSE,
            ),
            "report / import pandas": (pairs(report, pandas, ROUNDS, children=True), LOOSE),
            "report, asked again / import numpy, pydantic, yaml": (
                pairs(again, numpy, ROUNDS, children=True),
                LOOSE,
            ),
            "a worker's way to its first step / import torch and read the weights": (
                pairs(first_step, weights, ROUNDS, children=True),
                LOOSE,
            ),
        }


def prepared_run(results: Path) -> Path:
    """The folder of a digits run that has everything but a first step."""
    matrix = expand(load_grid("grids/digits.yaml", ["axes.precond=[ctm]", "axes.seed=[0]"]))
    run = ResultStore(results).prepare().open(matrix.specs[0])
    write_json(run.path / "request.json", asdict(replace(matrix.request, device="cpu")))
    return run.path


def pairs(
    one: Callable[[], object], other: Callable[[], object], rounds: int, *, children: bool = False
) -> float:
    """Median over rounds of time(one) / time(other), processor time of this process or children."""

    def spent(function: Callable[[], object]) -> float:
        before = cpu(children)
        function()
        return cpu(children) - before

    one(), other()
    return statistics.median(spent(one) / spent(other) for _ in range(rounds))


def cpu(children: bool) -> float:
    """Processor seconds of this process, or of all it has started and seen end."""
    if not children:
        return time.process_time()
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
