"""Measure the cost of a training step: network evaluations, time, and its distribution."""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Objective
from harness.backbones.dropout import hold_draws
from harness.bench.meter import Meter, clock
from harness.store.records import State
from harness.store.run import Run
from harness.train.cell import Cell
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer
from harness.train.step import take_step
from harness.train.torch_settings import arithmetic

#: solver steps at which CTM's step is measured, as far as the objective goes there
H = (1, 4, 12)
#: status.json is rewritten so often, in seconds (harness/train/worker.py)
HEARTBEAT = 0.5


@dataclass(frozen=True)
class StepCost:
    """One step with h solver steps, in units of F; `h` is None for an objective without.

    `measured_F` is the median over steps of step / F, F being timed before and after each, with
    the lowest and the highest; `cpu_F` the same of processor time, which other load on the machine
    hardly changes (None on a GPU). `parts` and `overhead` come from further, timed steps.
    """

    h: int | None
    evaluations: float
    measured_F: float
    low: float
    high: float
    cpu_F: float | None
    seconds: float
    images_per_second: float
    parts: dict[str, float]
    overhead: float


class StepBench:
    """Runs and times training steps of one cell, whose networks are discarded afterwards.

    Args:
        micro: the micro-batch; None for the whole batch of the cell.
    """

    def __init__(
        self, cell: Cell, machine: Machine, micro: int | None, log_every: int = 100
    ) -> None:
        self.cell, self.machine, self.log_every = cell, machine, log_every
        self.batch = cell.spec.train["batch"]
        self.micro = micro or self.batch
        self.now = clock(machine.device)
        if machine.device.type == "cuda":  # the peak of this problem, not of those before
            torch.cuda.reset_peak_memory_stats(machine.device)
        self.optimizer = Optimizer(
            cell.spec.train["optimizer"], cell.network.parameters(), cell.spec.train["lr"]
        )
        self._steps = itertools.count()
        device, spec = machine.device, cell.teacher.spec
        self._x = torch.randn(self.micro, *spec.shape, device=device)
        self._t = torch.full((self.micro,), spec.sigma_data, dtype=torch.float64, device=device)
        self._labels = torch.zeros(self.micro, spec.classes, device=device)
        hold_draws(cell.network, 0, 0, torch.arange(self.micro, device=device))

    def unit(self) -> None:
        """F: one forward pass of the network for the whole batch, as the step runs it."""
        labels = self._labels if self.cell.teacher.spec.classes else None
        precision = self.machine.precision
        with torch.no_grad(), self.machine.autocast(), arithmetic(precision):
            for _ in range(self.batch // self.micro):
                self.cell.network(self._x, self._t, self._t / 2, labels)

    def measure(self, rounds: int, hs: Sequence[int] = H) -> list[StepCost]:
        """Cost by number of solver steps; rounds of all of them are interleaved."""
        cells = {h: replace(self.cell, objective=o) for h, o in variants(self.cell, hs).items()}
        for cell in cells.values():  # allocations, decoding of data, choice of kernels
            self.take(cell)
        self.unit()
        wall: dict[int | None, list[float]] = {h: [] for h in cells}
        cpu: dict[int | None, list[float]] = {h: [] for h in cells}
        seconds: dict[int | None, list[float]] = {h: [] for h in cells}
        count: dict[int | None, list[float]] = {h: [] for h in cells}
        for _ in range(rounds):
            for h, cell in cells.items():
                before = self.timed(self.unit, 3)
                with Meter(cell, self.machine.device, timed=False).attached() as meter:
                    step = self.timed(lambda cell=cell: self.take(cell))
                after = self.timed(self.unit, 3)
                wall[h].append(2 * step[0] / (before[0] + after[0]))
                cpu[h].append(2 * step[1] / (before[1] + after[1]))
                seconds[h].append(step[0])
                count[h].append(meter.evaluations)
        costs = []
        for h, cell in cells.items():
            parts, overhead = self._parts(cell, max(1, rounds // 2))
            on_cpu = self.machine.device.type == "cpu"
            typical = statistics.median(seconds[h])
            costs.append(
                StepCost(
                    h=h,
                    evaluations=statistics.mean(count[h]),
                    measured_F=statistics.median(wall[h]),
                    low=min(wall[h]),
                    high=max(wall[h]),
                    cpu_F=statistics.median(cpu[h]) if on_cpu else None,
                    seconds=typical,
                    images_per_second=self.batch / typical,
                    parts=parts,
                    overhead=overhead,
                )
            )
        return costs

    def unit_seconds(self, rounds: int) -> float:
        """Median seconds of F."""
        return statistics.median(self.timed(self.unit)[0] for _ in range(rounds))

    def unit_flop(self) -> int:
        """Floating-point operations of F: two for each product that matrices and kernels add up."""
        with FlopCounterMode(display=False) as counter:
            self.unit()
        return counter.get_total_flops()

    def memory(self) -> int:
        """Bytes: the most that was allocated on the GPU, or the most this process ever held."""
        if self.machine.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.machine.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def take(self, cell: Cell, **options: Any) -> dict[str, torch.Tensor]:
        """The next step, of a variant of the cell."""
        step = next(self._steps)
        with arithmetic(self.machine.precision):
            return take_step(cell, self.optimizer, step, self.micro, self.machine, **options)

    def timed(self, function: Callable[[], Any], times: int = 1) -> tuple[float, float]:
        """Wall seconds and processor seconds of one call, out of some."""
        wall, cpu = self.now(), time.process_time()
        for _ in range(times):
            function()
        return (self.now() - wall) / times, (time.process_time() - cpu) / times

    def _parts(self, cell: Cell, rounds: int) -> tuple[dict[str, float], float]:
        """Where a step goes, in F, and the share of it that is neither network nor optimizer."""
        meter = Meter(cell, self.machine.device)
        unit = total = 0.0
        logs: dict[str, torch.Tensor] = {}
        with meter.attached():
            for _ in range(rounds):
                start = self.now()
                logs = self.take(cell, watch=meter.watch)
                total += self.now() - start
        for _ in range(rounds):
            unit += self.timed(self.unit)[0]
        logging = rounds * self._logging(logs, total / rounds)
        parts: dict[str, float] = {}
        for item in meter.passes:
            parts[item.kind] = parts.get(item.kind, 0.0) + item.seconds
        parts |= {name: meter.parts[name] for name in ("optimizer", "ema", "data")}
        parts["logging"] = logging
        parts["other"] = total + logging - sum(parts.values())
        overhead = sum(parts[name] for name in ("data", "logging", "other")) / (total + logging)
        return {name: value / unit for name, value in parts.items()}, overhead

    def _logging(self, logs: dict[str, torch.Tensor], step_seconds: float) -> float:
        """Seconds per step for writing train.jsonl and status.json, both flushed to disk."""
        with tempfile.TemporaryDirectory() as folder:
            run, spent = Run(Path(folder) / "runs" / "bench"), []
            for _ in range(5):
                start = time.perf_counter()
                table = torch.stack(
                    [torch.stack([value.float() for value in logs.values()])] * self.log_every
                ).cpu()
                means = table.mean(0).tolist()
                run.log({"step": 0, **dict(zip(logs, means, strict=True))})
                line = time.perf_counter() - start
                start = time.perf_counter()
                run.set_status(State.RUNNING, "", step=0, pid=0)
                spent.append((line, time.perf_counter() - start))
        line, status = (statistics.median(values) for values in zip(*spent, strict=True))
        return line / self.log_every + status * min(1.0, step_seconds / HEARTBEAT)


def variants(cell: Cell, hs: Sequence[int]) -> dict[int | None, Objective]:
    """The cell's objective with its number of solver steps fixed, for each h that it can have."""
    drawn = cell.objective.solver_steps()
    if not drawn:
        return {None: cell.objective}
    least, most = min(drawn), max(drawn)
    chosen = sorted({h for h in hs if h in drawn} | {most if most < max(hs) else least})
    return {h: cell.objective.at_solver_steps(h) for h in chosen}
