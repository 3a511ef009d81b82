"""The parts of benchmarks/gpu.py, each run in a process of its own."""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import harness.bench.stand_in  # noqa: F401 - makes the teacher known
from benchmarks.gpu import locked, note
from benchmarks.straight import StraightStep
from harness.backbones.dropout import hold_draws
from harness.bench.evaluation import measure_evaluation
from harness.bench.problem import bench_cell
from harness.bench.steps import StepBench, variants
from harness.config.grid import make_grid
from harness.config.matrix import Matrix, expand
from harness.store.provenance import collect
from harness.train.cell import Cell, calibrated
from harness.train.machine import Machine
from harness.train.torch_settings import arithmetic, repeatable, tune

ROOT = Path(__file__).parents[1]
#: dense bf16 products a second on NVIDIA's data sheets
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
#: network -> batches of a cell, micro-batch
SIZES = {"cifar10": ([512, 256], 256), "imagenet64": ([128], 64)}
TINY = {"cifar10": ([4], 2), "imagenet64": ([2], 1)}
#: networks of a rehearsal
SMALL = {"cifar10": "small", "imagenet64": "small"}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    repeatable()
    alone = {"ceilings": ceilings, "evaluation": evaluation, "tests": tests, "matrix": matrix}
    if args.part in alone:
        alone[args.part](args.path, args.tiny)
    else:
        network(args.path, args.part, args.tiny)
    return 0


@contextmanager
def alone_on_gpu(path: Path) -> Iterator[None]:
    """Within, no other part times anything, and what it no longer needs of the memory is free."""
    with locked(path.with_suffix(".gpu")):
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def ceilings(path: Path, tiny: bool) -> None:
    """What the card gives at most: a copy, a matrix product; and what it is."""
    machine = Machine.named("auto", "bf16")
    side, size = (256, 2**16) if tiny else (8192, 2**31)
    a, b = (torch.randn(side, side, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(size // 4, device=machine.device)
    y = torch.empty_like(x)
    product = 2 * side**3 / seconds(lambda: a @ b, machine)
    copied = 2 * size / seconds(lambda: y.copy_(x), machine)
    origin = collect({}, machine, 0)
    facts = {key: origin[key] for key in ("date", "hardware", "python")}
    facts |= {f"{name} version": v for name, v in origin["packages"].items() if v}
    if machine.device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        facts["driver, memory"] = subprocess.run(
            query, capture_output=True, text=True, check=False
        ).stdout.strip()
        facts["compute capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    note(
        path, "ceilings", facts=facts, bf16_TFLOP_per_s=product / 1e12, copy_TB_per_s=copied / 1e12
    )


def network(path: Path, part: str, tiny: bool) -> None:
    """One network with some switches: its passes, CTM's steps by h, the straight re-write."""
    name, *switches = part.split()
    batches, micro = (TINY if tiny else SIZES)[name]
    machine = Machine.named("auto", switches[0])
    grid = _grid(SMALL[name] if tiny else name, batches[0], switches[0])
    tuned = {switch: switch in switches for switch in ("compile", "channels_last")}
    with tempfile.TemporaryDirectory() as results:
        cell = bench_cell(grid.specs[0], grid.request, Path(results), machine.device)
    with alone_on_gpu(path):
        flop = StepBench(_sized(cell, micro), machine, None).unit_flop() / micro
    tune(cell, **tuned)
    at_micro = _sized(cell, micro)
    rows = []
    for name, run, work in _passes(at_micro, machine):
        rows.append(_pass_row(path, name, run, work * flop * micro, machine, micro, part))
        note(path, part, passes=rows)
    if switches[0] != "bf16":
        return
    with alone_on_gpu(path):
        note(path, part, kernels=_kernels(at_micro, machine, part))
    began = time.perf_counter()
    bench = StepBench(at_micro, machine, None)
    for h in (1, 4):
        bench.take(replace(at_micro, objective=variants(at_micro, [h])[h]))
    note(path, part, first_steps_s=round(time.perf_counter() - began, 1))
    steps: list[dict[str, Any]] = []
    for batch in batches:
        hs = (1, 4) if batch == batches[0] else (1, 17)
        with alone_on_gpu(path):
            steps += _steps(_sized(cell, batch), machine, micro, flop, part, hs)
        note(path, part, steps=steps)
        if "compile" not in switches:
            return


def _grid(network: str, batch: int, precision: str) -> Matrix:
    data = {
        "version": 1,
        "name": "gpu",
        "axes": {
            "precond": ["ctm"],
            "teacher": [{"name": "stand-in", "params": {"network": network}}],
            "objective": ["ctm"],
        },
        "train": {"batch": batch, "precision": precision},
        "budgets": [1],
        "evaluate": {"samples": 256, "metrics": ["frechet"]},
        "report": {"baseline": "ctm"},
    }
    return expand(make_grid(data, [], "gpu"))


def _sized(cell: Cell, batch: int) -> Cell:
    return replace(cell, spec=replace(cell.spec, train={**cell.spec.train, "batch": batch}))


def _passes(cell: Cell, machine: Machine) -> Iterator[tuple[str, Callable[[], None], int]]:
    """The teacher's forward pass and the student's with its backward pass, in forward passes."""
    device, spec, batch = machine.device, cell.teacher.spec, cell.spec.train["batch"]
    x = torch.randn(batch, *spec.shape, device=device)
    t = torch.full((batch,), 1.0, dtype=torch.float64, device=device)
    labels = torch.zeros(batch, spec.classes, device=device) if spec.classes else None
    parameters = list(cell.network.parameters())

    def forward() -> None:
        with torch.no_grad(), machine.autocast(), arithmetic(machine.precision):
            cell.teacher.denoise(x, t, labels)

    def both() -> None:
        with arithmetic(machine.precision):
            with machine.autocast():
                loss = cell.network(x, t, t / 2, labels).square().mean()
            torch.autograd.grad(loss, parameters, allow_unused=True)

    yield "teacher", forward, 1
    hold_draws(cell.network, 0, 0, torch.arange(batch, device=device))
    yield "student and back", both, 3


def _kernels(cell: Cell, machine: Machine, part: str, most: int = 12) -> list[dict[str, Any]]:
    """The kernels that a pass spends most of the GPU's time in, with their shares."""
    rows = []
    activity = torch.profiler.ProfilerActivity
    for name, run, _ in _passes(cell, machine):
        run()
        with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
            run()
            if machine.device.type == "cuda":
                torch.cuda.synchronize()
        spent = {
            event.key: (event.self_device_time_total, event.count)
            for event in profile.key_averages()
            if event.self_device_time_total and event.device_type != torch.autograd.DeviceType.CPU
        }
        total = sum(time for time, _ in spent.values())
        for key in sorted(spent, key=lambda key: -spent[key][0])[:most]:
            time, count = spent[key]
            row = {"network": part, "pass": name, "kernel": key[:80], "calls": count}
            rows.append(row | {"share": time / total, "ms": time / 1e3})
    return rows


def _pass_row(
    path: Path,
    name: str,
    run: Callable[[], None],
    flop: float,
    machine: Machine,
    images: int,
    part: str,
) -> dict[str, Any]:
    """Time one pass, after a first one, which may be compiled while others time theirs."""
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    with alone_on_gpu(path):
        if machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(machine.device)
        spent = seconds(run, machine)
    return {
        "network": part,
        "pass": name,
        "images": images,
        "images/s": images / spent,
        "TFLOP/s": flop / spent / 1e12,
        "share of peak": flop / spent / _peak(),
        "GiB": _gib(machine.device),
        "first s": first,
    }


def _steps(
    cell: Cell,
    machine: Machine,
    micro: int,
    flop: float,
    part: str,
    hs: tuple[int, ...],
) -> list[dict[str, Any]]:
    """CTM's steps by h, and the straight re-write beside them."""
    bench = StepBench(cell, machine, micro)
    batch, rows = cell.spec.train["batch"], []
    for cost in bench.measure(2, hs):
        chosen = next(o for h, o in variants(cell, [cost.h or 1]).items() if h == cost.h)
        other = None
        if cost.h in (1, 4):  # a long one takes as much of both
            other = seconds(StraightStep(cell, machine, micro, cost.h), machine, 2)
        work = cost.evaluations * flop * batch
        rows.append(
            {
                "network": part,
                "batch": batch,
                "h": cost.h,
                "s": cost.seconds,
                "in F": cost.measured_F,
                "evaluations": cost.evaluations,
                "images/s": cost.images_per_second,
                "TFLOP/s": work / cost.seconds / 1e12,
                "share of peak": work / cost.seconds / _peak(),
                "overhead": cost.overhead,
                "where, in F": ", ".join(f"{k} {v:.2f}" for k, v in cost.parts.items()),
                "host waits": _waits(lambda c=chosen: bench.take(replace(cell, objective=c))),
                "GiB": bench.memory() / 2**30,
                "straight / ours": other and other / cost.seconds,
            }
        )
    return rows


def _waits(step: Callable[[], object]) -> int:
    """How often the host waits for the GPU within a step, as torch sees it."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def evaluation(path: Path, tiny: bool) -> None:
    """Calibration, sampling, Inception features: what is done beside training."""
    machine = Machine.named("auto", "fp32")
    grid = _grid("small" if tiny else "cifar10", 8, "fp32")
    levels, samples = (8, 8) if tiny else (16, 256)
    params = {"levels": levels, "samples": samples}
    plugin = replace(grid.specs[0].precond, name="analytic", params=params)
    with alone_on_gpu(path), tempfile.TemporaryDirectory() as results:
        cell = bench_cell(grid.specs[0], grid.request, Path(results), machine.device)
        made = cell.teacher, cell.dataset, Path(results), machine.device
        _, artifact = calibrated(plugin, *made)
        assert artifact is not None
        asked = float(artifact.arrays["evaluations"])
        scale = 120 * 4096 / (levels * samples)  # to what `analytic` measures by default
        found = {
            "calibration_evaluations_per_s": asked / artifact.seconds,
            "full_calibration_s": artifact.seconds * scale,
        }
        note(path, "evaluation", **found)
        cost = measure_evaluation(cell, grid.request, machine)
        note(path, "evaluation", samples_per_s_and_jump=1 / cost.jump, worker_start_s=cost.start)
        note(path, "evaluation", inception_images_per_s=_inception(machine, 16 if tiny else 512))


def _inception(machine: Machine, count: int) -> float:
    """Images a second through the Inception network, whose weights are random here."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from harness.evaluate.extractors.networks.inception import Inception, _names

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the weights that its layers were made with."""

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    made = Random("random", ["2048"], feature_extractor_weights_path=buffer)
    assert list(made.state_dict()) == _names()
    extractor = Inception(made.state_dict(), "tf1-bilinear").to(machine.device)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, device=machine.device)
    return count / seconds(lambda: extractor(images), machine, 3)


def tests(path: Path, tiny: bool) -> None:
    """The tests that need a GPU; what is known of each is in gpu.log as soon as it has ended."""
    options = ["-v", "-n", "4", "--maxfail", "3", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests/gpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        told = line if "passed" in line or "failed" in line else told
    note(path, "tests", result=told.strip())
    if process.wait() not in (0, 5):
        sys.exit(process.returncode)


def matrix(path: Path, tiny: bool) -> None:
    """A short grid of four preconditionings with its table."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = ["axes.precond=[ctm,analytic,arc,{name: moment, params: {tangent: false}}]"]
        chosen += ["axes.seed=[0]", f"results={folder}", "launch.slots=4"]
        if tiny:
            chosen += [
                "budgets=[1,2]",
                "axes.precond=[ctm]",
                "evaluate.samples=16",
                "evaluate.nfe=[1]",
            ]
        flags = [word for pair in chosen for word in ("--set", pair)]
        command = [sys.executable, "-m", "harness", "run", "--matrix", "grids/digits.yaml", *flags]
        began = time.perf_counter()
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        note(path, "matrix", seconds=time.perf_counter() - began, code=process.returncode)
        table = Path(folder) / "tables" / "digits" / "speed.md"
        if process.returncode or not table.exists():
            print(process.stdout[-3000:], process.stderr[-3000:])
            sys.exit(1)
        note(path, "matrix", table=table.read_text())


def seconds(function: Callable[[], object], machine: Machine, times: int = 5) -> float:
    """Median seconds of a call, after two that are not counted; the device has then done it."""
    on_gpu = machine.device.type == "cuda"
    spent = []
    for number in range(times + 2):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if on_gpu:
            torch.cuda.synchronize()
        if number > 1:
            spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def _peak() -> float:
    """The card's dense bf16 products a second; of a card without an entry, a nominal 1e12."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for card, peak in PEAKS.items() if card in name), 1e12)


def _gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "6")
    sys.exit(main())
