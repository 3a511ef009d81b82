"""All measurements of a grid as one data frame, read from its files."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import ArtifactError
from harness.report.merge import (
    FoundRun,
    Stores,
    conflict_note,
    read_runs,
)
from harness.store.records import Measure, RunSpec, State
from harness.store.tables import read_wanted
from harness.visible import visible

#: what makes two numbers comparable; a table never mixes two of these
PROBLEM = ["teacher", "objective", "dataset", "setting"]
PROTOCOL = ["sampler", "ema", "eval_seed", "metric", "extractor", "n", "reference_n"]
#: columns of rows, with their types
COLUMNS = {
    **dict.fromkeys(["run_id", "precond", *PROBLEM], "str"),
    **dict.fromkeys(["seed", "step", "images"], "int64"),
    "seconds": "float64",
    "nfe": "int64",
    **dict.fromkeys(PROTOCOL, "str"),
    **dict.fromkeys(["eval_seed", "n", "reference_n"], "int64"),
    **dict.fromkeys(["value", "std"], "float64"),
    "lower_is_better": "bool",
}
#: those that are fields of a row of the same name
MEASURED = ["step", "images", "seconds", "nfe", "sampler", "ema", "metric", "n", "reference_n"]
MEASURED += ["value", "std", "lower_is_better"]
CELL_COLUMNS = [
    "precond",
    *PROBLEM,
    "seed",
    "run_id",
    "state",
    "reason",
    "have",
    "wanted",
    "hardware",
    "commit",
    "date",
    "folder",
    "drawn",
    "calibration_seconds",
    "calibration_evaluations",
]


def load_rows(
    stores: Stores, matrix: dict[str, Any], runs: dict[str, FoundRun] | None = None
) -> pd.DataFrame:
    """One row per evaluation that the grid asks for; columns `COLUMNS`.

    `stores` is one results folder or several; `matrix` the result of `read_grid` (or of
    `load_matrix`, for one folder); `runs` that of `read_runs`, to avoid reading them again.
    """
    runs = read_runs(stores, run_ids(matrix)) if runs is None else runs
    return frame_of(runs, label_cells(_specs(matrix)), wanted_of_cells(matrix))


def read_rows(
    stores: Stores,
    specs: Mapping[str, RunSpec],
    wanted: Mapping[str, set[Measure]] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the given runs, all or those in `wanted`; and notes on their files."""
    runs = read_runs(stores, specs)
    notes = [note for run in runs.values() for note in run.notes]
    notes += [conflict_note(run.conflicts) for run in runs.values() if run.conflicts]
    return frame_of(runs, label_cells(specs), wanted), notes


def frame_of(
    runs: Mapping[str, FoundRun],
    labels: Mapping[str, dict[str, Any]],
    wanted: Mapping[str, set[Measure]] | None = None,
) -> pd.DataFrame:
    """Rows of runs, all or those in `wanted`; columns `COLUMNS`."""
    found = [
        (run_id, [row for row in run.rows if wanted is None or row.measure in wanted[run_id]])
        for run_id, run in runs.items()
    ]
    rows = [vars(row) for _, mine in found for row in mine]
    cells = pd.DataFrame([{**labels[run_id], "run_id": run_id} for run_id, _ in found])
    cells = cells.reindex(columns=["run_id", "precond", *PROBLEM, "seed"])
    frame = cells.loc[np.repeat(cells.index, [len(mine) for _, mine in found])]
    columns = {name: [row[name] for row in rows] for name in MEASURED}
    columns["extractor"] = [row["extractor_id"] or row["extractor"] for row in rows]
    for name in ("metric", "extractor"):
        shown = {each: visible(each) for each in set(columns[name])}
        columns[name] = [shown[each] for each in columns[name]]
    columns["ema"] = ["" if rate is None else str(rate) for rate in columns["ema"]]
    columns["eval_seed"] = [row["seed"] for row in rows]
    frame = frame.reset_index(drop=True).assign(**columns)[list(COLUMNS)].astype(COLUMNS)
    _check_direction(frame)
    return frame


def load_cells(
    stores: Stores, matrix: dict[str, Any], runs: dict[str, FoundRun] | None = None
) -> pd.DataFrame:
    """One row per cell, run or not: labels, state, reason, numbers present and wanted, costs.

    `hardware` is empty if it is unknown or mixed; times of such cells are not compared. `folder` is
    the first one that has the run, `drawn` the first that has its coefficients.
    """
    runs = read_runs(stores, run_ids(matrix)) if runs is None else runs
    wanted = wanted_of_cells(matrix)
    labels = label_cells(_specs(matrix))
    records = []
    for run_id, run in runs.items():
        owed = wanted[run_id]
        have = len({row.measure for row in run.rows if row.measure in owed})
        state = str(run.status["state"])
        if state == State.DONE and have < len(owed):
            state = str(State.PARTIAL)
        machines = {origin.get("hardware", "") for origin in run.origins}
        costs = run.origins[0].get("costs", {}) if run.origins else {}
        records.append(
            {
                **labels[run_id],
                "run_id": run_id,
                "state": state,
                "reason": visible(run.status.get("reason", "")),
                "have": have,
                "wanted": len(owed),
                "hardware": visible(machines.pop()) if len(machines) == 1 else "",
                "commit": _joined(origin.get("commit") for origin in run.origins),
                "date": _joined(origin.get("date") for origin in run.origins),
                "folder": str(run.folders[0]) if run.folders else "",
                "drawn": str(run.drawn or ""),
                "calibration_seconds": costs.get("calibration_seconds", 0.0),
                "calibration_evaluations": costs.get("calibration_evaluations", 0.0),
            }
        )
    return pd.DataFrame(records, columns=CELL_COLUMNS)


def run_ids(matrix: dict[str, Any]) -> list[str]:
    """The runs of a grid, in its order."""
    return [cell["run_id"] for cell in matrix["cells"]]


def wanted_of_cells(matrix: dict[str, Any]) -> dict[str, set[Measure]]:
    """run id -> the measures that the grid asks of it."""
    by_objective = read_wanted(matrix)
    return {
        cell["run_id"]: {Measure(**measure) for measure in cell["wanted"]}
        if "wanted" in cell  # a published student
        else by_objective[cell["objective"]["name"]]
        for cell in matrix["cells"]
    }


def settled(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add the column `cost` (smaller is better, inf if not finite), and rows for diverged cells.

    To avoid survivorship bias, a diverged cell gets a row with value nan for every measure that
    other cells of its problem have and it lacks.
    """
    lost = cells[cells["state"] == str(State.DIVERGED)]
    if len(lost) and len(rows):
        points = rows.drop_duplicates([*PROBLEM, *PROTOCOL, "nfe", "step"])
        points = points[[*PROBLEM, *PROTOCOL, "nfe", "step", "images", "lower_is_better"]]
        owed = lost[[*PROBLEM, "precond", "seed", "run_id"]].merge(points, on=PROBLEM)
        have = rows.set_index(["run_id", *PROTOCOL, "nfe", "step"]).index
        owed = owed[~owed.set_index(["run_id", *PROTOCOL, "nfe", "step"]).index.isin(have)]
        if len(owed):
            owed = owed.assign(value=math.nan, seconds=math.nan)
            rows = pd.concat([rows, owed.reindex(columns=rows.columns)], ignore_index=True)
    value = rows["value"].astype(float)
    better = rows["lower_is_better"].astype(bool)
    cost = value.where(better, -value)
    finite = value.abs() < math.inf
    return rows.assign(cost=cost.where(finite, math.inf))


def _specs(matrix: dict[str, Any]) -> dict[str, RunSpec]:
    return {cell["run_id"]: RunSpec.from_json(cell) for cell in matrix["cells"]}


def label_cells(specs: Mapping[str, RunSpec]) -> dict[str, dict[str, Any]]:
    """run id -> labels of precond, problem and seed; equal labels mean equal identities.

    Within one grid the labels of plugins suffice. Folders of several users may use one name for
    different things (another revision, other weights): then a hash is appended. Cells of one
    problem that are trained differently differ in `setting`, which lists the keys that differ.
    """
    names = _names(specs.values())
    labels: dict[str, dict[str, Any]] = {
        run_id: {axis: names[_identity(axis, spec)] for axis in AXES} | {"seed": spec.seed}
        for run_id, spec in specs.items()
    }
    settings: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
    for run_id, spec in specs.items():
        problem = tuple(labels[run_id][axis] for axis in AXES[1:])
        settings[problem][run_id] = _flat(spec)
    for flats in settings.values():
        keys = sorted({key for flat in flats.values() for key in flat})
        differing = [key for key in keys if len({f.get(key) for f in flats.values()}) > 1]
        for run_id, flat in flats.items():
            parts = (f"{key}={flat.get(key, 'none')}" for key in differing)
            labels[run_id]["setting"] = ", ".join(parts)
    return labels


AXES = ("precond", "teacher", "objective", "dataset")


def _names(specs: Iterable[RunSpec]) -> dict[str, str]:
    """identity -> label; labels of several identities get four digits of a hash appended."""
    names: dict[str, str] = {}
    sharing: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for spec in specs:
        for axis in AXES:
            identity = _identity(axis, spec)
            label = names.setdefault(identity, getattr(spec, axis).label)
            # `teacher` is the name of every teacher's own data: there is one for each teacher
            within = _identity("teacher", spec) if axis == "dataset" else ""
            sharing[axis, within, label].add(identity)
    for identities in sharing.values():
        if len(identities) > 1:
            for identity in identities:
                names[identity] += f" #{hashlib.sha256(identity.encode()).hexdigest()[:4]}"
    return names


def _identity(axis: str, spec: RunSpec) -> str:
    """Identity of a plugin of a cell: name, revision, parameters, and digest of its content."""
    plugin = getattr(spec, axis).identity
    return json.dumps([axis, plugin, spec.digests.get(axis)], sort_keys=True)


def _flat(spec: RunSpec) -> dict[str, str]:
    """All settings that determine a cell's numbers and are not axes, by dotted key."""
    sections = {"train": spec.train, "student": spec.student, "backbone": spec.backbone or {}}
    return {
        f"{section}.{key}": json.dumps(value, sort_keys=True)
        for section, values in sections.items()
        for key, value in values.items()
    }


def _check_direction(rows: pd.DataFrame) -> None:
    """Check that all rows of a metric agree on `lower_is_better`, which plugin versions may not."""
    for (metric, extractor), group in rows.groupby(["metric", "extractor"], sort=False):
        if group["lower_is_better"].nunique() > 1:
            first, second = group.drop_duplicates("lower_is_better")["run_id"]
            raise ArtifactError(
                f"lower_is_better of {metric} ({extractor}) differs between runs {first} and"
                f" {second}; report their folders apart"
            )


def _joined(values: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(visible(str(value)) for value in values if value))
