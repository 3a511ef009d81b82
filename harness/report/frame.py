"""All numbers of a grid as one data frame, read from files alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from harness.store.files import read_json
from harness.store.records import RunSpec, State
from harness.store.store import ResultStore

#: what makes two numbers comparable; a table never mixes two of these
PROBLEM = ["teacher", "objective", "dataset"]
PROTOCOL = ["metric", "extractor", "n", "reference_n"]
COLUMNS = [
    "run_id",
    "precond",
    *PROBLEM,
    "seed",
    "step",
    "images",
    "seconds",
    "nfe",
    *PROTOCOL,
    "value",
    "lower_is_better",
]


def load_rows(store: ResultStore, matrix: dict[str, Any]) -> pd.DataFrame:
    """One row per evaluation that the grid asked for; columns `COLUMNS`."""
    wanted = {json.dumps(measure, sort_keys=True) for measure in matrix["wanted"]}
    records = []
    for cell in matrix["cells"]:
        spec = RunSpec.from_json(cell)
        for measure, row in store.run_at(cell["run_id"]).rows().items():
            if json.dumps(asdict(measure), sort_keys=True) in wanted:
                named = {"run_id": cell["run_id"], "extractor": row.extractor_id or row.extractor}
                records.append({**_labels(spec), **asdict(row), **named})
    return pd.DataFrame(records, columns=COLUMNS)


def load_cells(store: ResultStore, matrix: dict[str, Any]) -> pd.DataFrame:
    """One row per cell, run or not: labels, state, reason, numbers present and wanted, costs."""
    records = []
    wanted = len(matrix["wanted"])
    for cell in matrix["cells"]:
        spec = RunSpec.from_json(cell)
        run = store.run_at(cell["run_id"])
        status = run.status()
        provenance = run.path / "provenance.json"
        origin = read_json(provenance) if provenance.exists() else {}
        have = sum(1 for m in run.rows() if asdict(m) in matrix["wanted"])
        state = status["state"]
        if state == State.DONE and have < wanted:
            state = State.PARTIAL
        records.append(
            {
                **_labels(spec),
                "run_id": cell["run_id"],
                "state": str(state),
                "reason": status.get("reason", ""),
                "have": have,
                "wanted": wanted,
                "hardware": origin.get("hardware", ""),
                "calibration_seconds": origin.get("costs", {}).get("calibration_seconds", 0.0),
                "calibration_evaluations": origin.get("costs", {}).get(
                    "calibration_evaluations", 0.0
                ),
            }
        )
    return pd.DataFrame(records)


def same_coefficients(store: ResultStore, cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(teacher, precond) -> an earlier strategy with equal coefficients, where there is one."""
    first: dict[str, dict[str, Any]] = {}
    marks: dict[tuple[str, str], str] = {}
    for cell in cells.drop_duplicates(["teacher", "dataset", "precond"]).itertuples():
        path = store.run_at(str(cell.run_id)).path / "coefficients.json"
        if not path.exists():
            continue
        mine = read_json(path)
        known = first.setdefault(f"{cell.teacher}/{cell.dataset}", {})
        twin = next((name for name, other in known.items() if same_function(mine, other)), None)
        if twin is None:
            known[str(cell.precond)] = mine
        else:
            marks[str(cell.teacher), str(cell.precond)] = twin
    return marks


def same_function(a: dict[str, Any], b: dict[str, Any], tolerance: float = 1e-9) -> bool:
    """Whether two fingerprints (harness/train/coefficients.py) are the same function."""
    return bool(a["t"] == b["t"]) and all(
        abs(x - y) <= tolerance * max(1.0, abs(x))
        for key in ("skip", "out", "shift")
        for x, y in zip(a[key], b[key], strict=True)
    )


def _labels(spec: RunSpec) -> dict[str, Any]:
    return {
        "precond": spec.precond.label,
        "teacher": spec.teacher.label,
        "objective": spec.objective.label,
        "dataset": spec.dataset.label,
        "seed": spec.seed,
    }
