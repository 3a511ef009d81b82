"""Measure one problem (teacher, objective, training settings), and format the results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from harness.bench.evaluation import measure_evaluation
from harness.bench.forecast import FORMAT, Record, duration, label_of, problem_of
from harness.bench.steps import StepBench
from harness.store.provenance import collect
from harness.store.records import Request, RunSpec
from harness.train.cell import Cell, build_cell
from harness.train.machine import Machine
from harness.train.torch_settings import tune


def measure(
    spec: RunSpec,
    request: Request,
    results: Path,
    machine: Machine,
    *,
    rounds: int,
    hs: Sequence[int],
) -> Record:
    """All measurements of a problem, as stored in RESULTS/bench."""
    cell = bench_cell(spec, request, results, machine.device)
    bench = StepBench(cell, machine, request.micro_batch, request.log_every)
    flop = bench.unit_flop()  # before it is compiled, after which nobody sees the operations
    tune(cell, **request.switches)
    steps = [asdict(cost) for cost in bench.measure(rounds, hs)]
    unit = bench.unit_seconds(rounds)
    drawn = cell.objective.solver_steps()
    mean_h = sum(h * share for h, share in drawn.items()) if drawn else None
    origin = collect({}, machine, bench.micro)
    return {
        "format": FORMAT,
        "label": label_of(spec),
        "precond": spec.precond.label,
        "problem": problem_of(spec, request),
        "parameters": sum(p.numel() for p in cell.network.parameters()),
        "made": origin["date"],
        "device": machine.device.type,
        **{key: origin[key] for key in ("hardware", "commit", "python", "packages")},
        "F_seconds": unit,
        "F_flop": flop,
        "steps": steps,
        "mean_h": mean_h,
        "stated": cell.objective.evaluations(cell.teacher.spec),
        "step_seconds": unit * at_mean(steps, "measured_F", mean_h),
        "step_flop": flop * at_mean(steps, "evaluations", mean_h),
        "memory_bytes": bench.memory(),
        "evaluation": asdict(measure_evaluation(cell, request, machine)),
    }


def bench_cell(spec: RunSpec, request: Request, results: Path, device: torch.device) -> Cell:
    """A cell's objects for one process's share of the batch; a network to be fitted is not fitted.

    What a step costs does not depend on weights. A preconditioning that needs a calibration gets
    one.
    """
    share = spec.train["batch"] // request.processes
    spec = replace(spec, train={**spec.train, "batch": share})
    cell = build_cell(spec, results, device, fit=False)
    cell.network.train()
    cell.target.train()
    return cell


def at_mean(steps: Sequence[dict[str, Any]], name: str, mean_h: float | None) -> float:
    """A quantity at the mean number of solver steps, linearly interpolated."""
    if mean_h is None or len(steps) == 1:
        return float(steps[0][name])
    points = sorted((step["h"], step[name]) for step in steps)
    pairs = list(itertools.pairwise(points))
    low, high = next((pair for pair in pairs if mean_h <= pair[1][0]), pairs[-1])
    share = (mean_h - low[0]) / (high[0] - low[0])
    return float(low[1] + share * (high[1] - low[1]))


def text(record: Record) -> str:
    """The tables of a problem as text."""
    problem, cost = record["problem"], record["evaluation"]
    batch = problem["batch"]
    head = (
        f"{record['label']}, {record['precond']}: {record['parameters']:,} parameters, batch"
        f" {batch}, {problem['precision']}, on {record['hardware']}\n"
        f"F = one forward pass of the network for the batch = {record['F_seconds'] * 1e3:.4g} ms,"
        f" {record['F_flop'] / batch / 1e9:.4g} GFLOP an image"
    )
    names = list(dict.fromkeys(name for step in record["steps"] for name in step["parts"]))
    rows = [
        {
            "h": step["h"],
            "evaluations": f"{step['evaluations']:.2f}",
            "measured F": f"{step['measured_F']:.2f} [{step['low']:.2f}, {step['high']:.2f}]",
            "cpu F": "" if step["cpu_F"] is None else f"{step['cpu_F']:.2f}",
            "images/s": f"{step['images_per_second']:.4g}",
            **{name: f"{step['parts'].get(name, 0.0):.3g}" for name in names},
            "overhead": f"{100 * step['overhead']:.1f} %",
        }
        for step in record["steps"]
    ]
    mean_h = record["mean_h"]
    average = "" if mean_h is None else f" (h is {mean_h:.2f} on average)"
    tail = [
        *(
            [
                f"the objective says that a step is {record['stated']:.4g} evaluations on average,"
                " the teacher's included: one in closed form is none of a network"
            ]
            if record.get("stated")
            else []
        ),
        f"a step takes {record['step_seconds']:.4g} s{average},"
        f" {batch / record['step_seconds']:.4g} images/s,"
        f" {record['step_flop'] / record['step_seconds'] / 1e12:.3g} TFLOP/s in networks;"
        f" memory {record['memory_bytes'] / 2**20:,.0f} MiB",
        f"1000 samples take {1000 * cost['jump']:.4g} s a jump"
        + "".join(f", {1000 * s:.4g} s through {name}" for name, s in cost["extract"].items()),
        *(
            f"{name}: {s:.3g} s for {cost['samples']} samples"
            for name, s in cost["metrics"].items()
        ),
    ]
    if "denoise" in cost:  # older records do not have it
        tail.append(f"1000 evaluations of the teacher take {1000 * cost['denoise']:.4g} s")
    if cost["solve"]:
        tail.append(f"the teacher's own solution, once: {duration(cost['solve'])}")
    table = tabulate(rows, headers="keys", disable_numparse=True)
    return "\n".join([head, "", table, "", *tail])
