"""Files of a grid's runs besides measurements: coefficients, samples, trajectories, gaps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import ArtifactError
from harness.report.coefficients import read_coefficients
from harness.report.frame import PROBLEM
from harness.report.write import Report
from harness.store.run import Run

#: see `sampling_name` in harness/store/records.py
_SAMPLE = re.compile(r"step-(\d+)-nfe(\d+)(?:-(.+))?")


def problems(report: Report) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Every problem of the grid, and its cells."""
    for key, cells in report.cells.groupby(PROBLEM, sort=False):
        yield dict(zip(PROBLEM, map(str, key), strict=True)), cells


def twins(report: Report) -> dict[str, str]:
    """preconditioning -> the earlier one that it equals on every teacher of the grid."""
    pairs = report.leaderboard.groupby("precond")["same_as"].agg(set)
    return {
        str(name): found.pop() for name, found in pairs.items() if len(found) == 1 and found != {""}
    }


def fingerprints(cells: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """precond -> coefficients of its first run that has them, for the cells of one problem."""
    found: dict[str, dict[str, Any]] = {}
    for precond, folder in cells[["precond", "drawn"]].itertuples(index=False):
        if not folder or precond in found:
            continue
        with contextlib.suppress(ArtifactError):  # which the report's notes tell
            if mine := read_coefficients(Path(folder)):
                found[precond] = mine
    return found


def samples(cells: pd.DataFrame, extension: str) -> tuple[str, dict[tuple[str, int], Path]]:
    """(precond, NFE) -> samples/step-*-nfe*.extension of one seed and sampler, at its last budget.

    The seed is the first one with files; the sampler is `exact` if it was used. The first value
    returned describes both.
    """
    for seed, group in cells[cells["folder"] != ""].groupby("seed", sort=True):
        found = {
            (int(match[1]), match[3] or "", precond, int(match[2])): path
            for precond, folder in group[["precond", "folder"]].itertuples(index=False)
            for path in sorted((Path(folder) / "samples").glob(f"*.{extension}"))
            if (match := _SAMPLE.fullmatch(path.stem))
        }
        if found:
            last = max(key[0] for key in found)
            how = min(key[1] for key in found if key[0] == last)
            chosen = {key[2:]: path for key, path in found.items() if key[:2] == (last, how)}
            which = f"seed {seed}, step {last}, {how or 'exact'}"
            return which, dict(sorted(chosen.items(), key=lambda item: item[0][1]))
    return "", {}


def gaps(report: Report, cells: pd.DataFrame) -> pd.DataFrame:
    """Results of the command `gap` for the teacher of these cells, in the same results folder."""
    run_id = cells["run_id"].iloc[0]
    spec = next(cell for cell in report.matrix["cells"] if cell["run_id"] == run_id)
    roots = {Run(Path(folder)).results for folder in report.cells["folder"] if folder}
    for path in sorted(path for root in roots for path in root.glob("tables/gap/*/gap.csv")):
        table = pd.read_csv(path, dtype={"teacher": str, "digest": str, "precond": str})
        if (table["digest"] == spec["digests"]["teacher"]).all():
            return table
    return pd.DataFrame()
