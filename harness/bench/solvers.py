"""Measure the errors of the teacher's ODE solvers against a fine solution."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from harness.api import ConfigError, Teacher, create
from harness.config.plugins import resolve_dataset
from harness.core.random import normal
from harness.core.schedule import karras
from harness.core.solver import SOLVERS, solve
from harness.store.records import RunSpec

#: Heun steps inside each interval of the grid that count as exact
FINE = 16
SAMPLES = 64
#: of a network, which is asked thousands of times
NETWORK_SAMPLES = 4
#: steps from sigma_max to sigma_min for the order of convergence
REFINEMENT = (16, 32, 64)


@dataclass(frozen=True)
class Start:
    """Initial data and noise of measured trajectories, [n, *shape] float64, with the teacher."""

    teacher: Teacher
    x0: Tensor
    labels: Tensor | None
    eps: Tensor

    @property
    def ends(self) -> tuple[float, float]:
        """The teacher's lowest and highest noise level."""
        return self.teacher.spec.sigma_min, self.teacher.spec.sigma_max

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The teacher's denoiser for these samples."""
        return self.teacher.denoise(x, t, self.labels).double()


def measure_solvers(spec: RunSpec, hs: Sequence[int]) -> dict[str, Any]:
    """Errors as an objective meets them, and from noise to data; RMS over samples and coordinates.

    What is done and how far it is goes to stderr.

    Raises:
        ConfigError: the objective has no grid of noise levels.
    """
    from tqdm import tqdm

    teacher: Teacher = create("teacher", spec.teacher.name, spec.teacher.params)
    dataset = resolve_dataset(spec.dataset, teacher)
    nodes = spec.objective.params.get("nodes")
    if nodes is None:
        raise ConfigError(
            f"bench --solvers: objective {spec.objective.name!r} has no grid of nodes"
        )
    samples = NETWORK_SAMPLES if type(teacher).is_network else SAMPLES
    print(
        f"{spec.teacher.label}: h = {', '.join(map(str, hs))} from {nodes - 1} noise levels,"
        f" then from noise to data, against {FINE} Heun steps an interval; {samples} samples",
        file=sys.stderr,
    )
    x0, labels = dataset.draw(0, "solvers", torch.arange(samples))
    eps = normal(0, "solvers noise", 0, torch.arange(samples), teacher.spec.shape, torch.float64)
    start = Start(teacher, x0.double(), labels, eps)
    with torch.no_grad(), tqdm(total=nodes, unit="level", disable=None) as bar:
        return {
            "teacher": spec.teacher.label,
            "nodes": nodes,
            "samples": samples,
            "steps": _after_steps(start, nodes, hs, bar.update),
            "whole": _from_noise_to_data(start, bar.update),
        }


def _after_steps(
    start: Start, nodes: int, hs: Sequence[int], tick: Callable[[], Any]
) -> list[dict[str, Any]]:
    """As an objective meets them: from data with noise at level t(i) of its grid to t(i + h).

    In h steps, root mean square over all i that there are.
    """
    grid = karras(nodes, *start.ends)
    squares: dict[tuple[str, int], list[float]] = {}
    for i in range(nodes - 1):
        noisy = start.x0 + grid[i] * start.eps
        exact, at = noisy, i
        for h in sorted(h for h in set(hs) if i + h < nodes):
            exact, at = solve(start.denoise, exact, grid[at : i + h + 1], FINE), i + h
            for name, solver in SOLVERS.items():
                error = solver(start.denoise, noisy, grid[i : i + h + 1]) - exact
                squares.setdefault((name, h), []).append(float(error.square().mean()))
        tick()
    return [
        {"h": h, "solver": name, "error": math.sqrt(sum(values) / len(values))}
        for (name, h), values in sorted(squares.items(), key=lambda item: item[0][1])
    ]


def _from_noise_to_data(start: Start, tick: Callable[[], Any]) -> list[dict[str, Any]]:
    """From sigma_max to sigma_min, in each of REFINEMENT steps: the order of convergence."""
    noise = start.ends[1] * start.eps
    exact = solve(start.denoise, noise, karras(max(REFINEMENT) + 1, *start.ends), 8)
    rows = []
    for steps in REFINEMENT:
        for name, solver in SOLVERS.items():
            error = solver(start.denoise, noise, karras(steps + 1, *start.ends)) - exact
            rows.append(
                {"steps": steps, "solver": name, "error": math.sqrt(float(error.square().mean()))}
            )
    tick()
    return rows


def text(found: dict[str, Any]) -> str:
    """Both tables, for people: errors with the teacher's evaluations in brackets."""

    def table(rows: list[dict[str, Any]], key: str) -> str:
        numbers = dict.fromkeys(row[key] for row in rows)
        lines = []
        for number in numbers:
            line = {key: number}
            for row in rows:
                if row[key] == number:
                    cost = number if row["solver"] == "unipc" else 2 * number
                    line[row["solver"]] = f"{row['error']:.2e} ({cost})"
            lines.append(line)
        return tabulate(lines, headers="keys", disable_numparse=True)

    return (
        f"{found['teacher']}: RMS error after h steps of a Karras grid of {found['nodes']} nodes"
        f" (evaluations), from data with noise, {found['samples']} samples\n\n"
        f"{table(found['steps'], 'h')}\n\n"
        f"from noise to data in so many steps\n\n{table(found['whole'], 'steps')}"
    )
