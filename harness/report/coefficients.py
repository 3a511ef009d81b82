"""Read the coefficients that runs stored, and find preconditionings that are the same function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import ArtifactError
from harness.store.files import read_json

#: of every pair t > s of a grid; older files do not say what level the network is told: it was t
PAIRS = ("t", "s", "skip", "out", "shift")


def read_coefficients(folder: Path) -> dict[str, Any] | None:
    """Read coefficients.json of a run (harness/train/coefficients.py); None if it does not exist.

    Raises:
        ArtifactError: the file is damaged; the message says what is lost and how to mend it.
    """
    path = folder / "coefficients.json"
    if not path.exists():
        return None
    try:
        found = read_json(path)
        whole = _is_whole(found)
    except ArtifactError:
        whole = False
    if not whole:
        raise ArtifactError(
            f"{path} is damaged: the coefficients of this run are neither drawn nor compared;"
            " delete the file: it is written again when the run is trained or evaluated further"
        )
    return dict(found)


def _is_whole(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("curves", {}), dict):
        return False
    curves = list(found.get("curves", {}).values())
    bands = found.get("bands", [])
    if not isinstance(bands, list) or not all(isinstance(band, dict) for band in bands):
        return False
    lists = [found.get(key) for key in PAIRS] + [found.get("told", found.get("t"))]
    lists += [band.get(key) for band in bands for key in ("skip", "out")]
    drawn = [[n for n in each if n is not None] if isinstance(each, list) else 0 for each in curves]
    return all(_are_numbers(each) for each in lists + drawn) and all(
        len(each) == len(lists[0]) for each in lists
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def same_coefficients(
    cells: pd.DataFrame, folders: Mapping[str, Path | None]
) -> dict[tuple[str, str], str]:
    """(teacher, precond) -> the earlier one with equal coefficients, for those that have one.

    `folders`: run id -> a folder of the run with coefficients. Those of a preconditioning are taken
    from its first run that has them: on one teacher they are the same in all.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    marks: dict[tuple[str, str], str] = {}
    seen = set()
    for cell in cells[["run_id", "teacher", "dataset", "precond"]].itertuples(index=False):
        run_id, teacher, dataset, precond = map(str, cell)
        folder = folders[run_id]
        if folder is None or (teacher, dataset, precond) in seen:
            continue
        if (mine := read_coefficients(folder)) is None:  # deleted meanwhile
            continue
        seen.add((teacher, dataset, precond))
        known = first.setdefault((teacher, dataset), {})
        twin = next((name for name, other in known.items() if same_function(mine, other)), None)
        if twin is None:
            known[precond] = mine
        else:
            marks[teacher, precond] = twin
    return marks


def same_function(a: dict[str, Any], b: dict[str, Any], tolerance: float = 1e-9) -> bool:
    """Whether two fingerprints (harness/train/coefficients.py) are the same function."""
    a, b = ({"told": each["t"], **each} for each in (a, b))  # t, where older files say nothing
    if len(a["t"]) != len(b["t"]) or len(a.get("bands", [])) != len(b.get("bands", [])):
        return False
    lists = [(a[key], b[key]) for key in ("t", "skip", "out", "shift", "told")]
    for one, two in zip(a.get("bands", []), b.get("bands", []), strict=True):
        lists += [(one[key], two[key]) for key in ("skip", "out")]
    return all(
        abs(x - y) <= tolerance * max(1.0, abs(x))
        for one, two in lists
        for x, y in zip(one, two, strict=True)
    )
