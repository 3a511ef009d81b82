"""matrix.json, which describes a grid for reports, and the sources from which tables were made."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ArtifactError, ConfigError, DamagedError, nearest
from harness.home import told_without_home, without_home
from harness.store.files import read_json, write_json
from harness.store.records import PUBLISHED, Measure
from harness.store.schema import read_versioned, write_versioned
from harness.store.stamps import digests

if TYPE_CHECKING:
    from harness.config.matrix import Matrix
    from harness.store.store import ResultStore

#: names of the tables of a grid, each in several formats beside matrix.json
TABLES = ("leaderboard", "speed", "profile", "area", "coverage")
#: file with digests and stamps of the sources from which the tables beside it were made
MADE_FROM = "sources.json"
#: keys of matrix.json, and files of a run from which tables are made
MATRIX = ("grid", "request", "wanted", "cells", "skips")  # keys of matrix.json
READ = ("eval.jsonl", "status.json", "provenance.json", "coefficients.json")


def save_matrix(store: ResultStore, matrix: Matrix, *, whole: bool = True) -> str:
    """Write tables/<grid>/matrix.json: the runs of the grid, and the measures wanted of each.

    If not `whole`, `matrix` is a part or variant of the grid by `--only` or `--set`. Then existing
    content is kept: cells are added, and measures only if all cells of an objective are asked for
    them. Returns a note if measures of `matrix` are left out, else an empty string.
    """
    path = store.root / "tables" / matrix.grid.name / "matrix.json"
    described = {
        # where this machine keeps its results, and what secrets it has, is nobody else's business
        "grid": matrix.grid.model_dump(
            mode="json", exclude={"results": True, "launch": {"environment", "slurm"}}
        ),
        "request": asdict(matrix.request),
        "wanted": _wanted(matrix),
        "trained": matrix.trained,
        "cells": [spec.to_json() for spec in matrix.specs],
        "skips": [
            {"cell": skip.cell, "reason": told_without_home(skip.reason)} for skip in matrix.skips
        ],
    }
    described = json.loads(json.dumps(without_home(described)))
    try:
        known = read_versioned(path, MATRIX) if path.exists() else None
    except DamagedError:
        known = None  # it is written anew
    note = ""
    if known and not whole:
        described, note = _united(known, described, matrix.grid.name)
    if known != described:
        write_versioned(path, described)
    return note


def _united(known: dict[str, Any], new: dict[str, Any], grid: str) -> tuple[dict[str, Any], str]:
    """Merge a part or variant of a grid into its matrix.json; return the result and a note."""
    merged = dict(new)
    for kind, key in (("cells", "run_id"), ("skips", "cell")):
        items = {item[key]: item for item in (*known[kind], *new[kind])}
        whole = len(items) == len(new[kind])  # then in the order of the grid
        merged[kind] = new[kind] if whole else list(items.values())
    merged["trained"] = known.get("trained", {}) | new["trained"]
    asked = {cell["run_id"] for cell in new["cells"]}
    left = {cell["objective"]["name"] for cell in known["cells"] if cell["run_id"] not in asked}
    wanted, more, out = _measures(known), _measures(new), False
    for name, measures in more.items():
        if name not in left:
            wanted[name] = list(dict.fromkeys((*wanted.get(name, []), *measures)))
        else:  # further numbers would leave the cells that are not asked for them with gaps
            out |= not set(measures) <= set(wanted[name])
    merged["wanted"] = _described(wanted)
    if left:
        merged |= {"grid": known["grid"], "request": known["request"]}
    note = (
        f"some numbers of this run are not in the tables: those of grid {grid!r} hold what all of"
        " its cells were asked for, by earlier runs too. Nothing is lost: `--set name=NEW` makes"
        " tables of what is asked now"
    )
    return merged, note if out else ""


def _wanted(matrix: Matrix) -> list[dict[str, Any]]:
    """All measures wanted, each with the `objectives` whose cells owe it unless all do."""
    by_objective = {spec.objective.name: spec for spec in matrix.specs}
    return _described({name: matrix.wanted(spec) for name, spec in by_objective.items()})


def _described(wanted: Mapping[str, Iterable[Measure]]) -> list[dict[str, Any]]:
    """Inverse of `_measures`."""
    wanting: dict[Measure, list[str]] = {}
    for name, measures in wanted.items():
        for measure in measures:
            wanting.setdefault(measure, []).append(name)
    return [
        measure.to_json() | ({} if len(names) == len(wanted) else {"objectives": names})
        for measure, names in wanting.items()
    ]


def read_wanted(matrix: dict[str, Any]) -> dict[str, set[Measure]]:
    """Objective -> the measures wanted of its cells, from a matrix.json.

    Raises:
        TypeError: it was written by a newer version.
    """
    return {name: set(measures) for name, measures in _measures(matrix).items()}


def _measures(matrix: dict[str, Any]) -> dict[str, list[Measure]]:
    """`read_wanted`, in order."""
    found: dict[str, list[Measure]] = {cell["objective"]["name"]: [] for cell in matrix["cells"]}
    for entry in matrix["wanted"]:
        measure = Measure(**{key: entry[key] for key in entry if key != "objectives"})
        for name in entry.get("objectives", found):
            found.setdefault(name, []).append(measure)
    return found


def load_matrix(store: ResultStore, grid: str) -> dict[str, Any]:
    """Read matrix.json of a grid, and add published students measured on its problems as cells.

    Raises:
        ConfigError: the results folder has no grid of that name.
        DamagedError: the file is damaged.
    """
    path = store.root / "tables" / grid / "matrix.json"
    if not path.exists():
        raise ConfigError(f"{store.root} has no grid {grid!r}{nearest(grid, grids(store))}")
    matrix = read_versioned(path, MATRIX)
    _add_published(store, matrix)
    return matrix


def _add_published(store: ResultStore, matrix: dict[str, Any]) -> None:
    """Add published students that were measured by the grid's protocols on one of its problems.

    They are not part of the grid and not stored in matrix.json, so that `run` does not affect them.
    The `wanted` of such a cell are the measures that it has.
    """
    problems = {
        (cell["digests"]["teacher"], cell["digests"]["dataset"]) for cell in matrix["cells"]
    }
    asked = {_protocol(measure) for found in read_wanted(matrix).values() for measure in found}
    steps = {measure["nfe"] for measure in matrix["wanted"]}
    for path in sorted(store.root.glob(f"runs/*-{PUBLISHED}-s0-*/spec.json")):
        run = store.run_at(path.parent.name)
        digests = run.spec.digests
        if (digests["teacher"], digests["dataset"]) not in problems:
            continue
        rows = [m for m in run.rows() if m.nfe in steps and _protocol(m) in asked]
        if rows:
            told = {"wanted": [measure.to_json() for measure in rows]}
            matrix["cells"].append(run.spec.to_json() | told)


def _protocol(measure: Measure) -> tuple[str, str, int, int]:
    """The protocol of a measure: metric, extractor, n and seed, without sampling."""
    return measure.metric, measure.extractor, measure.n, measure.seed


def sources(store: ResultStore, grid: str) -> dict[str, Any]:
    """Digests of all sources of a grid's tables: runs, matrix.json and the code of reports."""
    known = _made_from(store, grid).get("files")
    paths = [f"tables/{grid}/matrix.json"]
    for cell in load_matrix(store, grid)["cells"]:
        paths += [f"runs/{cell['run_id']}/{name}" for name in READ]
    return {
        "report": _code(),
        "files": digests(store.root, paths, known if isinstance(known, dict) else {}),
    }


def _made_from(store: ResultStore, grid: str) -> dict[str, Any]:
    """The sources of the stored tables of a grid; empty if they are not known."""
    path = store.root / "tables" / grid / MADE_FROM
    try:
        found = read_json(path) if path.exists() else {}
    except ArtifactError:
        found = {}
    return found if isinstance(found, dict) else {}


def save_sources(store: ResultStore, grid: str, found: dict[str, Any]) -> None:
    """Write the sources of the tables of a grid; to be called after writing the tables."""
    write_json(store.root / "tables" / grid / MADE_FROM, found)


def kept_tables(store: ResultStore, grid: str, extension: str) -> dict[str, str] | None:
    """The text of all stored tables of a grid, or None unless all are up to date.

    This avoids the slow import of pandas if nothing has changed.
    """
    folder = store.root / "tables" / grid
    paths = {table: folder / f"{table}.{extension}" for table in TABLES}
    if not all(path.exists() for path in paths.values()):
        return None
    known = _made_from(store, grid)
    try:
        now = sources(store, grid) if known else None
    except ArtifactError:
        return None  # a damaged file, which is written anew or told by whoever needs it
    if now is None or not _same(known, now):
        return None
    if now != known:
        with contextlib.suppress(OSError):  # stamps only spare the next report the reading
            save_sources(store, grid, now)
    return {table: path.read_text() for table, path in paths.items()}


def _same(known: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether code and digests agree, whatever the stamps."""
    files = known.get("files")
    return (
        known.get("report") == now["report"]
        and isinstance(files, dict)
        and files.keys() == now["files"].keys()
        and all(
            isinstance(files[each], list) and files[each][:1] == now["files"][each][:1]
            for each in files
        )
    )


@cache
def _code() -> str:
    """Digest of the code that reads rows and makes tables, whose changes make them out of date."""
    found = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in (*sorted(package.glob("report/*.py")), *sorted(package.glob("store/*.py"))):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def no_grid(stores: Sequence[ResultStore]) -> ConfigError:
    """The error for results folders without a grid; it names results folders inside them."""
    where = ", ".join(str(store.root) for store in stores)
    inner = ", ".join(str(each) for store in stores for each in store.inner())
    hint = f"results are in {inner}" if inner else "see `run --matrix`"
    return ConfigError(f"{where}: no grid was run into this folder yet; {hint}")


def grids(store: ResultStore) -> list[str]:
    """Names of the grids that were run into a results folder."""
    return sorted(path.parent.name for path in store.root.glob("tables/*/matrix.json"))
