"""Forecast the duration of a grid on this machine from measurements of `bench`; imports no torch.

Every problem that was measured lies in RESULTS/bench, one file for each and for each machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api import content_digest, create_precond
from harness.config.matrix import Matrix
from harness.errors import HarnessError
from harness.store.files import read_json, write_json
from harness.store.provenance import processor
from harness.store.records import Measure, Request, RunSpec
from harness.store.store import ResultStore

FORMAT = 1
Record = dict[str, Any]


@dataclass(frozen=True)
class Forecast:
    """Seconds that the missing numbers of a grid will take, with `slots` cells at a time.

    `once` is what is shared by cells: the teacher's own solution, features of the data,
    calibrations. `measured` names the machines the figures come from, `unknown` the problems nobody
    has measured, `left_out` preconditionings whose calibration is not known.
    """

    training: float
    evaluation: float
    once: float
    left_out: tuple[str, ...]
    measured: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def total(self) -> float:
        """Total seconds."""
        return self.training + self.evaluation + self.once

    def text(self, command: str) -> str:
        """One or two lines; `command` is what measures what is unknown."""
        lines = []
        if self.measured:
            without = f"; without calibrating {', '.join(self.left_out)}" if self.left_out else ""
            lines.append(
                f"forecast: about {duration(self.total)} ({duration(self.training)} of training,"
                f" {duration(self.evaluation)} of evaluation, {duration(self.once)} once{without}),"
                f" as measured on {'; '.join(self.measured)}"
            )
        if self.unknown:
            what = "; ".join(self.unknown)
            lines.append(f"no forecast for {what}: measure it with `{command}`")
        return "\n".join(lines)


def problem_of(spec: RunSpec, request: Request) -> dict[str, Any]:
    """The settings that determine the cost of a cell's steps; not preconditioning, seed or data."""
    return {
        "teacher": spec.digests["teacher"],
        "objective": spec.objective.identity,
        "backbone": spec.backbone,
        **({"student": spec.student} if spec.student else {}),
        "batch": spec.train["batch"] // request.processes,
        "micro_batch": request.micro_batch,
        "optimizer": spec.train["optimizer"],
        "precision": spec.train["precision"],
        **request.switches,
    }


def label_of(spec: RunSpec) -> str:
    """Label of a problem."""
    return f"{spec.teacher.label} x {spec.objective.label}"


def problems(matrix: Matrix) -> list[RunSpec]:
    """One cell for every problem of a grid, if possible one that needs no calibration."""
    from harness.registry import registry

    found: dict[str, RunSpec] = {}
    for needs in (False, True):
        for spec in matrix.specs:
            if registry.get("precond", spec.precond.name).needs_calibration() == needs:
                found.setdefault(content_digest(problem_of(spec, matrix.request)), spec)
    return list(found.values())


def save(store: ResultStore, record: Record) -> Path:
    """Write the measurements of one problem, replacing older ones on the same kind of machine."""
    name = content_digest([record["problem"], record["hardware"]])
    path = store.root / "bench" / f"{name}.json"
    write_json(path, record)
    return path


def find(store: ResultStore, problem: dict[str, Any], gpu: bool = False) -> Record | None:
    """The newest record of a problem, one of a machine like this before others.

    Args:
        gpu: what is to be forecast runs on a GPU.
    """
    here, found = processor(), []
    for path in sorted((store.root / "bench").glob("*.json")):
        try:
            record = read_json(path)
        except HarnessError:
            continue
        if record.get("format") == FORMAT and record["problem"] == problem:
            like = record.get("device", "cpu") == ("cuda" if gpu else "cpu")
            found.append((like, here in record["hardware"], record["made"], record))
    return max(found, key=lambda item: item[:3])[3] if found else None


def forecast(matrix: Matrix, store: ResultStore, gpu: bool = False) -> Forecast:
    """Cost of everything a grid still owes; `gpu`: where it runs."""
    training = evaluation = once = 0.0
    measured: dict[str, None] = {}
    unknown: dict[str, None] = {}
    solved: set[str] = set()
    calibrated: set[str] = set()
    asking: dict[tuple[str, ...], tuple[str, float] | None] = {}
    owed: dict[str, tuple[str, float]] = {}  # calibrations: whose, and their seconds
    records: dict[str, Record | None] = {}
    request = matrix.request
    for spec in matrix.specs:
        run = store.run_at(spec.run_id)
        try:
            missing = run.missing(matrix.wanted(spec))
        except HarnessError:
            continue  # `plan` tells which files cannot be read
        step = run.known_status().get("step", 0) if missing else 0
        pair = spec.precond.label, spec.digests["teacher"], spec.digests["dataset"]
        if pair not in asking:
            asking[pair] = _calibration(spec)
        asked = asking[pair]
        if asked and (step or not missing):
            calibrated.add(asked[0])  # it has trained
        if not missing:
            continue
        problem = problem_of(spec, request)
        key = content_digest(problem)
        if key not in records:
            records[key] = find(store, problem, gpu)
        record = records[key]
        if record is None:
            unknown[label_of(spec)] = None
            continue
        measured[f"{record['hardware']} ({record['made'][:10]})"] = None
        cost = record["evaluation"]
        steps = max(measure.step for measure in missing) - step
        training += max(0, steps) * record["step_seconds"] + cost["start"]
        evaluation += _evaluation_seconds(missing, cost, request.samples)
        if spec.digests["teacher"] not in solved:
            solved.add(spec.digests["teacher"])
            once += cost["solve"] / request.processes
            once += request.samples * sum(cost["extract"].values())
        if asked:
            one = cost.get("denoise", math.nan) / request.processes
            owed[asked[0]] = spec.precond.label, asked[1] * one
    slots = min(matrix.grid.launch.slots, max(1, len(matrix.specs)))
    owed = {what: owed[what] for what in owed if what not in calibrated}
    left_out = [label for label, seconds in owed.values() if math.isnan(seconds)]
    once += sum(seconds for _, seconds in owed.values() if not math.isnan(seconds))
    return Forecast(
        training / slots,
        evaluation / slots,
        once,
        tuple(left_out),
        tuple(measured),
        tuple(unknown),
    )


def _calibration(spec: RunSpec) -> tuple[str, float] | None:
    """What a cell measures of its teacher, and in how many evaluations; None: nothing.

    nan evaluations: the preconditioning does not say.

    Preconditionings and seeds that share a measurement have the same first part.
    """
    precond = create_precond(spec.precond.name, sigma_data=1.0, **spec.precond.params)
    if not precond.needs_calibration():
        return None
    what = [precond.measured, spec.digests["teacher"], spec.digests["dataset"]]
    evaluations = precond.calibration_evaluations()
    return content_digest(what), math.nan if evaluations is None else evaluations


def _evaluation_seconds(missing: Iterable[Measure], cost: dict[str, Any], samples: int) -> float:
    """Samples once for each budget, EMA, sampler and NFE; features once for each and extractor."""
    drawn = {(m.nfe, m.step, m.ema, m.sampler) for m in missing}
    seen = {(m.extractor_name, m.nfe, m.step, m.ema, m.sampler) for m in missing}
    seconds = sum(nfe * samples * cost["jump"] for nfe, *_ in drawn)
    seconds += sum(samples * cost["extract"].get(name, 0.0) for name, *_ in seen)
    return seconds + sum(
        cost["metrics"].get(f"{m.metric} {m.extractor_name}", 0.0) for m in missing
    )


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds / size < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days" if math.isfinite(seconds) else "for ever"
