"""Read several results folders as one: runs by id, grids by name, with a list of conflicts.

A run id identifies everything that determines its numbers, so that equal rows of several folders
are kept once. On other hardware the same run may give other numbers. Then the first folder is used
for the whole run, and nothing of the run in other folders, because a curve joined from two
trainings would be that of neither. Every differing number is recorded as a `Conflict`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ArtifactError, ConfigError, nearest
from harness.report.readings import Reading, read_folder
from harness.store.records import EvalRow, Measure, RunSpec, State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.tables import grids, load_matrix, read_wanted

Stores = ResultStore | Sequence[ResultStore]
#: what must agree for two rows to be one number: the measure, and its whole protocol
Key = tuple[Measure, int, str]


@dataclass(frozen=True)
class Conflict:
    """A measure of a run on which two folders disagree; `value` in `folder` is the one used."""

    run_id: str
    measure: str
    value: Any
    folder: str
    other_value: Any
    other_folder: str


@dataclass
class FoundRun:
    """A run merged from all folders; `folders` are those its rows come from.

    `drawn`: the first of them with readable coefficients.json, or None; `plugins`: digests of
    plugins' files, for rows that do not contain them.
    """

    run_id: str
    rows: list[EvalRow] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=lambda: {"state": State.QUEUED})
    origins: list[dict[str, Any]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    drawn: Path | None = None
    plugins: dict[str, str] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def as_stores(stores: Stores) -> list[ResultStore]:
    """One results folder or several, as a list."""
    return [stores] if isinstance(stores, ResultStore) else list(stores)


def read_runs(stores: Stores, run_ids: Iterable[str]) -> dict[str, FoundRun]:
    """Runs merged from all folders that have them, by id, in the order of `run_ids`."""
    run_ids = list(run_ids)
    folders = [(store, read_folder(store, run_ids)) for store in as_stores(stores)]
    return {
        run_id: _merged(
            run_id,
            [(store.run_at(run_id), found[run_id]) for store, found in folders if run_id in found],
        )
        for run_id in run_ids
    }


def read_specs(stores: Stores) -> tuple[dict[str, RunSpec], list[str]]:
    """Specs of all runs in the folders by run id, and reasons why some cannot be read."""
    specs: dict[str, RunSpec] = {}
    notes = []
    for store in as_stores(stores):
        for run in store.runs():
            try:
                specs.setdefault(run.run_id, run.spec)
            except ArtifactError as error:
                notes.append(str(error))
    return specs, notes


def _merged(run_id: str, found: list[tuple[Run, Reading | ArtifactError]]) -> FoundRun:
    """Merge one run from all folders that have it; in a conflict the first readable one is used."""
    merged = FoundRun(run_id)
    lost = []
    for run, mine in found:
        if isinstance(mine, ArtifactError):
            merged.notes.append(str(mine))
            if not merged.folders:
                merged.status = {"state": UNREADABLE, "reason": str(mine)}
            continue
        merged.notes += mine.notes
        merged.plugins = merged.plugins or mine.plugins
        if not _add(merged, run, mine):
            continue
        if mine.drawn:
            merged.drawn = merged.drawn or run.path
        elif mine.lost and not merged.drawn:
            lost.append(mine.lost)
    merged.notes += lost
    return merged


#: state of a cell whose files are damaged or of a version that cannot be read
UNREADABLE = "unreadable"


def _add(merged: FoundRun, run: Run, reading: Reading) -> bool:
    """Add one folder's rows of a run to those of earlier folders; if not, record the conflicts."""
    if not merged.folders:
        merged.status, merged.rows = reading.status, reading.rows
    else:
        folder, other = str(merged.folders[0]), str(run.path)
        mine, rows = ({_key(row): row for row in each} for each in (merged.rows, reading.rows))
        clashes = [
            Conflict(run.run_id, _name(row), mine[key].value, folder, row.value, other)
            for key, row in rows.items()
            if key in mine and not _equal(mine[key].value, row.value)
        ]
        states = (str(merged.status["state"]), str(reading.status["state"]))
        if set(states) == {State.DONE, State.DIVERGED}:
            clashes.append(Conflict(run.run_id, "state", states[0], folder, states[1], other))
        if clashes:
            merged.conflicts += clashes
            return False
        merged.rows += [row for key, row in rows.items() if key not in mine]
        if reading.status["state"] in (State.DONE, State.DIVERGED):
            merged.status = reading.status
    merged.origins.append(reading.origin)
    merged.folders.append(run.path)
    return True


def conflict_note(conflicts: Sequence[Conflict]) -> str:
    """Summarise the conflicts of one run in a sentence; conflicts.csv lists all of them."""
    first = conflicts[0]
    more = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
    return (
        f"conflict in {first.run_id}: {first.measure} is {first.value} in {first.folder} (used) and"
        f" {first.other_value} in {first.other_folder} (not used){more};"
        " `report --out DIR` lists all in conflicts.csv"
    )


def read_grid(stores: Stores, grid: str) -> tuple[dict[str, Any], list[str]]:
    """matrix.json of a grid, merged from all folders that ran it, and notes on disagreements.

    Cells, measures wanted and skips are united; the report settings are those of the first folder.

    Raises:
        ConfigError: no folder has a grid of that name.
    """
    found = as_stores(stores)
    having = [store for store in found if grid in grids(store)]
    if not having:
        known = {name for store in found for name in grids(store)}
        where = ", ".join(str(store.root) for store in found)
        raise ConfigError(f"{where} has no grid {grid!r}{nearest(grid, known)}")
    merged: dict[str, Any] = {"wanted": [], "cells": [], "skips": [], "trained": {}}
    notes = []
    for store in having:
        matrix = load_matrix(store, grid)
        try:
            report = {key: matrix["grid"]["report"][key] for key in ("baseline", "targets")}
            if "grid" not in merged:
                merged |= {"grid": matrix["grid"], "request": matrix["request"]}
                first = report
            elif report != first:
                notes.append(
                    f"{grid}: the report section of {store.root} differs from that of"
                    f" {having[0].root}, which counts"
                )
            for cell in matrix["cells"]:
                RunSpec.from_json(cell)
            read_wanted(matrix)
            _extend(merged["cells"], matrix["cells"], lambda cell: cell["run_id"])
            _extend(merged["wanted"], matrix["wanted"], _text)
            _extend(merged["skips"], matrix["skips"], _text)
            merged["trained"] |= matrix.get("trained", {})
        except (KeyError, TypeError) as error:
            path = store.root / "tables" / grid / "matrix.json"
            raise ArtifactError(
                f"{path} cannot be read by this version ({error!r}): update precondbench, or run"
                " the grid again"
            ) from None
    return merged, notes


def _extend(items: list[Any], more: list[Any], key: Callable[[Any], str]) -> None:
    known = {key(item) for item in items}
    items += [item for item in more if key(item) not in known]


def _text(item: Any) -> str:
    return json.dumps(item, sort_keys=True)


def _key(row: EvalRow) -> Key:
    return (row.measure, row.reference_n, row.extractor_id or row.extractor)


def _name(row: EvalRow) -> str:
    extractor = row.extractor_id or row.extractor
    return f"{row.metric} ({extractor}, n={row.n}) at step {row.step}, NFE {row.nfe}, {row.sampler}"


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
