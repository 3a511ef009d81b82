"""How exact the solvers of the teacher's ODE are, against a fine solution."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from harness.api import ConfigError, Teacher, create
from harness.config.workshop import resolve_dataset
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


def measure_solvers(spec: RunSpec, hs: Sequence[int]) -> dict[str, Any]:
    """Errors as an objective meets them, and from noise to data; RMS over samples and coordinates.

    As an objective meets them: from data with noise at level t(i) of its grid, h steps to t(i + h),
    root mean square over all i that there are. What is done and how far it is goes to stderr.
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
    grid = karras(nodes, teacher.spec.sigma_min, teacher.spec.sigma_max)
    x0, labels = dataset.draw(0, "solvers", torch.arange(samples))
    eps = normal(0, "solvers noise", 0, torch.arange(samples), teacher.spec.shape, torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return teacher.denoise(x, t, labels).double()

    squares: dict[tuple[str, int], list[float]] = {}
    with torch.no_grad(), tqdm(total=nodes, unit="level", disable=None) as bar:
        for i in range(nodes - 1):
            start = x0.double() + grid[i] * eps
            exact, at = start, i
            for h in sorted(h for h in set(hs) if i + h < nodes):
                exact, at = solve(denoise, exact, grid[at : i + h + 1], FINE), i + h
                for name, solver in SOLVERS.items():
                    error = solver(denoise, start, grid[i : i + h + 1]) - exact
                    squares.setdefault((name, h), []).append(float(error.square().mean()))
            bar.update()
        ends = (teacher.spec.sigma_min, teacher.spec.sigma_max)
        start = ends[1] * eps
        exact = solve(denoise, start, karras(max(REFINEMENT) + 1, *ends), 8)
        whole = {
            (name, steps): float(
                (solver(denoise, start, karras(steps + 1, *ends)) - exact).square().mean()
            )
            for name, solver in SOLVERS.items()
            for steps in REFINEMENT
        }
        bar.update()
    return {
        "teacher": spec.teacher.label,
        "nodes": nodes,
        "samples": samples,
        "steps": [
            {"h": h, "solver": name, "error": math.sqrt(sum(values) / len(values))}
            for (name, h), values in sorted(squares.items(), key=lambda item: item[0][1])
        ],
        "whole": [
            {"steps": steps, "solver": name, "error": math.sqrt(value)}
            for (name, steps), value in sorted(whole.items(), key=lambda item: item[0][1])
        ],
    }


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
