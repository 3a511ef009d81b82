"""Build the report of a grid and write tables/<grid>/{leaderboard,speed,...}.{csv,md,tex,txt}."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.sampler import Sampler
from harness.errors import ConfigError, nearest
from harness.report.area import area_table
from harness.report.coefficients import same_coefficients
from harness.report.comparisons import comparisons
from harness.report.frame import load_cells, load_rows, run_ids, wanted_of_cells
from harness.report.leaderboard import coverage, leaderboard
from harness.report.merge import (
    UNREADABLE,
    Conflict,
    FoundRun,
    Stores,
    conflict_note,
    read_grid,
    read_runs,
)
from harness.report.profile import profile_table
from harness.report.render import Piece, pieces, render
from harness.report.speed import speed_table
from harness.report.styles import STYLES
from harness.store.files import tidy, write_atomic, write_changed
from harness.store.lease import held
from harness.store.records import QUICK, State
from harness.store.store import ResultStore
from harness.store.tables import MADE_FROM, TABLES, save_sources
from harness.visible import visible

EXTENSIONS = (*STYLES, "csv")
QUICK_NOTE = (
    "made with --quick: this shows that everything works, not which preconditioning is ahead"
)
FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Report:
    """The tables of a grid in long form, as in the csv files.

    `rows` and `cells`: the data from which they are computed; `notes`: remarks for readers of the
    tables; `conflicts` (columns of `Conflict`): values on which folders disagree.
    """

    grid: str
    baseline: str
    leaderboard: pd.DataFrame
    speed: pd.DataFrame
    profile: pd.DataFrame
    coverage: pd.DataFrame
    area: pd.DataFrame
    rows: pd.DataFrame
    cells: pd.DataFrame
    conflicts: pd.DataFrame
    notes: tuple[str, ...] = ()
    matrix: dict[str, Any] = field(default_factory=dict, repr=False)
    _texts: dict[tuple[str, str, str | None], str] = field(
        default_factory=dict, repr=False, compare=False
    )
    _pieces: dict[tuple[str, str | None], list[Piece]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def unreadable(self) -> bool:
        """Whether files of a run could not be read, so that the tables are incomplete."""
        return bool((self.cells["state"] == UNREADABLE).any())

    def text(self, table: str, extension: str = "txt", metric: str | None = None) -> str:
        """One table for people (txt, md, tex) or for programs (csv), of one metric or all.

        Raises:
            ConfigError: the grid has no measurement of that metric.
        """
        key = table, extension, metric  # what is printed is also written: rendered once
        if key not in self._texts:
            self._texts[key] = self._render(*key)
        return self._texts[key]

    def _render(self, table: str, extension: str, metric: str | None) -> str:
        frame: pd.DataFrame = getattr(self, table)
        if metric is not None:
            known = set(self.rows["metric"])
            if metric not in known:
                raise ConfigError(
                    f"grid {self.grid} has no metric {metric!r}{nearest(metric, known)}"
                )
            frame = frame[frame["metric"] == metric] if "metric" in frame else frame
        if extension == "csv":
            return _csv(frame)
        key = table, metric  # laid out once for all styles
        if key not in self._pieces:
            self._pieces[key] = pieces(table, frame, self.baseline, self.notes)
        return render(self._pieces[key], extension)


def build_report(
    stores: Stores,
    grid: str,
    baseline: str | None = None,
    targets: dict[str, list[float]] | None = None,
) -> Report:
    """Read a grid's runs from one folder or several and compute its tables; imports no torch.

    `baseline` replaces that of the grid; `targets` (metric -> values to reach) are added to those
    of the grid.

    Raises:
        ConfigError: no folder has such a grid, or no preconditioning or metric has such a name.
    """
    matrix, notes = read_grid(stores, grid)
    runs = read_runs(stores, run_ids(matrix))
    rows, cells = load_rows(stores, matrix, runs), load_cells(stores, matrix, runs)
    settings: dict[str, Any] = matrix["grid"]["report"]
    asked = targets or {}
    known = [measure["metric"] for measure in matrix["wanted"]]
    for metric in asked:
        if metric not in known:
            raise ConfigError(f"grid {grid} has no metric {metric!r}{nearest(metric, known)}")
    if baseline is not None and baseline not in set(cells["precond"]):
        known = list(cells["precond"])
        raise ConfigError(
            f"grid {grid} has no preconditioning {baseline!r}{nearest(baseline, known)}"
        )
    baseline = baseline or settings["baseline"]
    goals = {
        metric: list(dict.fromkeys([*settings["targets"].get(metric, []), *asked.get(metric, [])]))
        for metric in [*settings["targets"], *asked]
    }
    marks = same_coefficients(cells, {run_id: run.drawn for run_id, run in runs.items()})
    compared = comparisons(rows, cells, baseline, marks)
    conflicts = [conflict for run in runs.values() for conflict in run.conflicts]
    told = [
        *notes,
        *([QUICK_NOTE] if grid.endswith(QUICK) else []),
        *_notes(runs, rows, cells, baseline, settings),
        *_untrained(rows, matrix),
        *_edited(runs, matrix),
    ]
    return Report(
        grid=grid,
        baseline=baseline,
        leaderboard=leaderboard(rows, cells, marks),
        speed=speed_table(compared, goals),
        profile=profile_table(compared),
        coverage=coverage(cells, matrix["skips"]),
        area=area_table(compared),
        rows=rows,
        cells=cells,
        conflicts=pd.DataFrame(conflicts, columns=list(Conflict.__dataclass_fields__)),
        notes=tuple(map(visible, told)),
        matrix=matrix,
    )


def write_tables(store: ResultStore, report: Report, made_from: dict[str, Any]) -> None:
    """Write a report's tables beside its grid's matrix.json, in every format.

    Args:
        made_from: `sources` of the grid before the report was built, so that runs added meanwhile
            make the tables out of date.
    """
    folder = store.root / "tables" / report.grid
    with held(folder / ".lease"):
        tidy(folder)
        (folder / MADE_FROM).unlink(missing_ok=True)  # it is not true of what is written now
        write_report(report, folder)
        if not report.unreadable:  # else the next one shall say so again
            save_sources(store, report.grid, made_from)


def write_report(report: Report, folder: Path) -> None:
    """Write every table in every format, and conflicts.csv if there are conflicts."""
    for table in TABLES:
        for extension in EXTENSIONS:
            write_changed(folder / f"{table}.{extension}", report.text(table, extension))
    if len(report.conflicts):
        write_atomic(folder / "conflicts.csv", _csv(report.conflicts))
    else:
        (folder / "conflicts.csv").unlink(missing_ok=True)


def _notes(
    runs: dict[str, FoundRun],
    rows: pd.DataFrame,
    cells: pd.DataFrame,
    baseline: str,
    settings: dict[str, Any],
) -> list[str]:
    """Remarks on the tables: conflicts, diverged and incomplete cells, missing baseline, ..."""
    notes = [note for run in runs.values() for note in run.notes]
    notes += [conflict_note(run.conflicts) for run in runs.values() if run.conflicts]
    states = cells["state"].value_counts()
    if diverged := states.get(str(State.DIVERGED), 0):
        notes.append(f"{diverged} of {len(cells)} cells diverged: they rank below every number")
    lacking = cells[(cells["have"] < cells["wanted"]) & (cells["state"] != str(State.DIVERGED))]
    if len(lacking):
        notes.append(f"{len(lacking)} of {len(cells)} cells lack numbers: see coverage")
    if len(cells) and cells["seed"].nunique() == 1:
        notes.append("one seed: its noise is unknown, so ranks and speed-ups have no interval")
    if baseline not in set(cells["precond"]):
        notes.append(
            f"baseline {baseline!r} is not in the grid, so nothing is compared with it"
            f"{nearest(baseline, cells['precond'])}"
        )
    for metric in settings["targets"]:
        if len(rows) and metric not in set(rows["metric"]):
            notes.append(
                f"report.targets names metric {metric!r}, of which there is no number"
                f"{nearest(metric, rows['metric'])}"
            )
    return notes


def _csv(frame: pd.DataFrame) -> str:
    """A frame as csv; text that a spreadsheet would read as a formula is prefixed by `'`.

    As `DataFrame.to_csv` with ten digits, in a fraction of the time.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(zip(*(_told(frame[name]) for name in frame), strict=True))
    return text.getvalue()


def _told(column: pd.Series) -> list[str]:
    """The cells of one column of a csv file."""
    if column.dtype == float:
        return ["" if math.isnan(value) else f"{value:.10g}" for value in column.tolist()]
    values = column.astype(object).where(column.notna(), "").tolist()
    if column.dtype == object:  # of several types, where 1 and True are not the same word
        return list(map(_word, values))
    words = {value: _word(value) for value in set(values)}
    return [words[value] for value in values]


def _word(value: Any) -> str:
    word = str(value)
    return f"'{word}" if isinstance(value, str) and word.startswith(FORMULA) else word


def _untrained(rows: pd.DataFrame, matrix: dict[str, Any]) -> list[str]:
    """Notes on samplers that use jumps which the objective does not train.

    Only NFE above 1 matters: the single jump of NFE 1 is the same for every sampler.
    """
    objectives = {cell["run_id"]: cell["objective"]["name"] for cell in matrix["cells"]}
    drawn = rows[rows["nfe"] > 1][["run_id", "sampler", "nfe"]].drop_duplicates()
    steps: dict[tuple[str, str], set[int]] = {}
    for run_id, sampler, nfe in drawn.itertuples(index=False):
        name = objectives[run_id]
        if Sampler.read(sampler).kind not in matrix["trained"].get(
            name, [Sampler.read(sampler).kind]
        ):
            steps.setdefault((name, sampler), set()).add(nfe)
    return [
        f"sampler {sampler} at NFE {', '.join(map(str, sorted(nfes)))} asks students of objective"
        f" {name} for jumps that it never trains (it trains those of"
        f" {' and '.join(matrix['trained'][name])})"
        for (name, sampler), nfes in steps.items()
    ]


def _edited(runs: dict[str, FoundRun], matrix: dict[str, Any]) -> list[str]:
    """Notes on plugins (not built in) whose file changed between measurements of the grid."""
    wanted = wanted_of_cells(matrix)
    versions: dict[str, set[str]] = {}
    for run_id, run in runs.items():
        for row in run.rows:
            if row.measure in wanted[run_id]:
                for plugin, digest in (row.plugins or run.plugins).items():
                    versions.setdefault(plugin, set()).add(digest)
    return [
        f"the file of {plugin} was edited between these numbers: they were made with"
        f" {len(digests)} versions of it (`plugins` in eval.jsonl says which is whose); if they"
        " differ in what they compute, raise `revision` on the class and run again"
        for plugin, digests in sorted(versions.items())
        if len(digests) > 1
    ]
