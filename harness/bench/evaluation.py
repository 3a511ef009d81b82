"""Measure the cost of sampling and metrics on this machine."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.api import Extractor, HarnessError, Metric, create
from harness.bench.meter import clock
from harness.core.sampling import Walk, evaluation_labels, fresh_noise, initial_noise
from harness.evaluate.evaluator import BLOCK, IMAGE_BLOCK
from harness.evaluate.features import Features, check_pair, score
from harness.evaluate.images import is_image, quantise
from harness.evaluate.moments import Accumulator
from harness.store.records import Request
from harness.train.cell import Cell
from harness.train.machine import Machine

#: samples on which a metric is timed at most; one that needs all vectors is taken to be quadratic
MOST = 4096
#: images that fill a CPU
FEW = 64


@dataclass(frozen=True)
class EvaluationCost:
    """Costs in seconds: `jump`, `denoise` (the teacher) and `extract` per sample.

    `metrics`: all metrics for all samples of one NFE.

    `solve`: the teacher's ODE solution for all samples, once for all cells; `start`: imports of a
    worker. Extractors whose weights are missing are left out.
    """

    samples: int
    jump: float
    denoise: float
    extract: dict[str, float]
    metrics: dict[str, float]
    solve: float
    start: float


def measure_evaluation(cell: Cell, request: Request, machine: Machine) -> EvaluationCost:
    """Time one block of samples through the student, every extractor and every metric."""
    device, spec = machine.device, cell.teacher.spec
    now = clock(device)
    images = is_image(spec.shape)
    block = (FEW if device.type == "cpu" else IMAGE_BLOCK) if images else BLOCK
    indices = torch.arange(min(request.samples, block), device=device)
    noise = initial_noise(0, indices, spec.shape, spec.sigma_max, torch.float32)
    labels = evaluation_labels(0, indices, spec.classes)

    def timed(function: Callable[[], Any], times: int = 2) -> float:
        function()
        spent = []
        for _ in range(times):
            start = now()
            function()
            spent.append(now() - start)
        return statistics.median(spent)

    cell.target.eval()
    walk, fresh = Walk.of("exact", 1, spec), fresh_noise(0, indices, spec.shape)

    def draw() -> Tensor:
        return walk.end(cell.ema_student, noise, fresh, labels)

    jump = timed(draw) / len(indices)
    drawn = draw()
    cell.target.train()
    t = torch.tensor(spec.sigma_data, dtype=torch.float64, device=device)
    with torch.no_grad():
        ask = timed(lambda: cell.teacher.denoise(noise.double(), t, labels)) / len(indices)
    seen = quantise(drawn) if images else drawn
    extract: dict[str, float] = {}
    metrics: dict[str, float] = {}
    trajectory = False
    for name in request.extractors:
        extractor: Extractor = create("extractor", name)
        try:
            extractor.ready().to(device)
        except HarnessError:
            continue
        extract[name] = timed(lambda e=extractor: e(seen)) / len(indices)
        dim = extractor(seen).shape[1]
        for metric_name in request.metrics:
            metric: Metric = create("metric", **request.metric_plugin(metric_name))
            if metric.needs == "trajectory":
                trajectory = True
                continue
            if metric.needs == "samples":
                metrics[f"{metric_name} samples"] = timed(lambda m=metric: m.compute(seen, seen))
                continue
            check_pair(metric, extractor, images)
            seconds = _metric_seconds(metric, extractor, dim, request.samples)
            metrics[f"{metric_name} {name}"] = seconds
    return EvaluationCost(
        samples=request.samples,
        jump=jump,
        denoise=ask,
        extract=extract,
        metrics=metrics,
        solve=2 * request.ode_steps * ask * request.samples if trajectory else 0.0,
        start=_start_seconds(),
    )


def _metric_seconds(metric: Metric, extractor: Extractor, dim: int, samples: int) -> float:
    n = min(samples, MOST)
    drawn = [torch.randn(n, dim, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    sets = []
    for vectors in drawn:
        accumulator = Accumulator()
        accumulator.add(vectors)
        sets.append(Features.restored(extractor, accumulator.moments(), vectors.double()))
    start = time.perf_counter()
    score(metric, *sets)
    seconds = time.perf_counter() - start
    return seconds if metric.needs == "moments" else seconds * math.pow(samples / n, 2)


def _start_seconds() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import harness.train.worker"], check=True)
    return time.perf_counter() - start
