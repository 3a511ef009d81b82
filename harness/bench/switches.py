"""Measure the speed-up by the switches of `train`, each alone and all together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.bench.problem import bench_cell
from harness.bench.steps import StepBench, variants
from harness.store.records import Request, RunSpec
from harness.train.machine import Machine
from harness.train.torch_settings import tune


def measure_switches(
    spec: RunSpec,
    request: Request,
    results: Path,
    machine: Machine,
    switches: Sequence[str],
    *,
    h: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Time of step and forward pass over that without any switch; rounds are interleaved.

    On a CPU it is processor time. `switches` are out of bf16, channels_last, compile. The first
    round is not counted: compiling takes minutes.
    """
    chosen = [(), *((switch,) for switch in switches)]
    chosen += [tuple(switches)] if len(switches) > 1 else []
    benches, cells = {}, {}
    for on in chosen:
        cell = bench_cell(spec, request, results, machine.device)
        tune(cell, compile="compile" in on, channels_last="channels_last" in on)
        here = replace(machine, precision="bf16") if "bf16" in on else machine
        benches[on] = StepBench(cell, here, request.micro_batch)
        objective = next(o for n, o in variants(cell, [h]).items() if n in (h, None))
        cells[on] = replace(cell, objective=objective)
    clock = 1 if machine.device.type == "cpu" else 0  # processor time hardly feels other load
    spent: dict[tuple[str, ...], list[tuple[float, float]]] = {on: [] for on in chosen}
    for number in range(rounds + 1):
        for on, bench in benches.items():
            step = bench.timed(lambda on=on: benches[on].take(cells[on]))
            unit = bench.timed(bench.unit, 3)
            if number:
                spent[on].append((step[clock], unit[clock]))
    rows = []
    for on in chosen:
        steps, units = (
            [mine[k] / plain[k] for mine, plain in zip(spent[on], spent[()], strict=True)]
            for k in range(2)
        )
        rows.append(
            {
                "switches": " + ".join(on) or "none",
                "step": statistics.median(steps),
                "step_low": min(steps),
                "step_high": max(steps),
                "forward": statistics.median(units),
            }
        )
    return rows


def text(rows: Sequence[dict[str, Any]], h: int) -> str:
    """The table, for people."""
    lines = [
        {
            "switches": row["switches"],
            f"step (h = {h})": f"{row['step']:.2f} [{row['step_low']:.2f}, {row['step_high']:.2f}]",
            "forward": f"{row['forward']:.2f}",
        }
        for row in rows
    ]
    return "seconds over those without switches: median of pairs [lowest, highest]\n\n" + tabulate(
        lines, headers="keys", disable_numparse=True
    )
