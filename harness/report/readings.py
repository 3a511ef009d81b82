"""What the files of runs say, read again only where they changed.

Parsing the rows of ten thousand runs takes seconds, so that readings are kept in an index,
RESULTS/.report.sqlite. The truth is in the files: the index may be deleted at any time, and one
that is damaged, of another version, or cannot be written is ignored or written anew. It is SQLite,
which Python brings along, replaces single runs in place and survives two reports at once; pyarrow
(Parquet) would be a new dependency and rewrite the whole file for one run.

A reading is kept with the stamps (harness/store/stamps.py) of the run's files, and only if nothing
is wrong with them: what has to be told is read and told every time.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import ArtifactError
from harness.report.coefficients import read_coefficients
from harness.store.records import EvalRow
from harness.store.run import Run
from harness.store.stamps import is_recent, stamp
from harness.store.store import ResultStore
from harness.store.tables import READ

INDEX = ".report.sqlite"
#: fields of rows that are usually equal in all rows of a run, and then kept once
SHARED = ("extractor", "n", "reference_n", "lower_is_better", "extractor_id", "sampler", "ema")
SHARED += ("seed", "plugins")
EACH = ("step", "images", "seconds", "nfe", "metric", "value", "std")


@dataclass
class Reading:
    """The files of one run in one folder.

    `plugins`: digests of plugins' files, for rows that do not contain them; `drawn`: whether there
    are coefficients; `lost`: why they cannot be read; `notes`: what else is wrong.
    """

    status: dict[str, Any]
    rows: list[EvalRow]
    origin: dict[str, Any]
    plugins: dict[str, str] = field(default_factory=dict)
    drawn: bool = False
    lost: str = ""
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which looks at all rows again and again while none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def read_folder(store: ResultStore, run_ids: Iterable[str]) -> dict[str, Reading | ArtifactError]:
    """Read those of the runs that a results folder has; an error stands for one without numbers."""
    known, fresh = _load(store.root), {}
    found: dict[str, Reading | ArtifactError] = {}
    for run_id in run_ids:
        run = store.run_at(run_id)
        now = [stamp(f"{store.root}/runs/{run_id}/{name}") for name in (*READ, "spec.json")]
        stamps, content = known.get(run_id, ("", ""))
        if stamps == json.dumps(now):
            found[run_id] = _parsed(content)
        elif any(now) or run.path.is_dir():
            try:
                mine = found[run_id] = _read(run)
            except ArtifactError as error:
                found[run_id] = error
                continue
            if not (mine.notes or mine.lost or any(map(is_recent, now))):
                fresh[run_id] = json.dumps(now), _written(mine)
    if fresh:
        _save(store.root, fresh, known)
    return found


def _read(run: Run) -> Reading:
    """Read one run from its files.

    Raises:
        ArtifactError: its status, rows or provenance are damaged.
    """
    found = Reading(run.status(), list(run.rows().values()), run.origin())
    if run.is_torn():
        found.notes.append(
            f"{run.path / 'eval.jsonl'}: its last line was cut short by a crash and is not"
            " counted; `run` cuts it off and computes what is missing"
        )
    try:
        _ = run.spec
        if found.origin.get("plugins"):
            found.plugins = run.plugins()
    except ArtifactError as error:  # costs no number: matrix.json knows the run, too
        found.notes.append(str(error))
    try:
        found.drawn = read_coefficients(run.path) is not None
    except ArtifactError as error:  # costs what it holds: the run's numbers are elsewhere
        found.lost = str(error)
    return found


def _written(reading: Reading) -> str:
    """A reading as JSON, with a column for every field of its rows."""
    rows = [vars(row) for row in reading.rows]
    columns = {name: [row[name] for row in rows] for name in (*SHARED, *EACH)}
    same = {
        name: columns.pop(name)[0]
        for name in SHARED
        if rows and columns[name].count(columns[name][0]) == len(rows)
    }
    return json.dumps(
        [reading.status, reading.origin, reading.plugins, reading.drawn, same, columns]
    )


def _parsed(content: str) -> Reading:
    """Inverse of `_written`."""
    status, origin, plugins, drawn, same, columns = json.loads(content)
    rows = []
    for values in zip(*columns.values(), strict=True):
        row = object.__new__(EvalRow)  # it was checked when it was read from its file
        row.__dict__.update(same, **dict(zip(columns, values, strict=True)))
        rows.append(row)
    return Reading(status, rows, origin, plugins, drawn)


def _load(root: Path) -> dict[str, tuple[str, str]]:
    """Run id -> stamps and content of the index; empty if it is damaged or of another version."""
    path = root.absolute() / INDEX
    try:
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as index:
            if index.execute("SELECT version FROM about").fetchall() != [(_version(),)]:
                return {}
            kept = index.execute("SELECT run_id, stamps, content, checksum FROM runs").fetchall()
    except (sqlite3.Error, OSError):
        return {}
    return {
        run_id: (stamps, content)
        for run_id, stamps, content, checksum in kept
        if checksum == _checksum(run_id, stamps, content)
    }


def _save(root: Path, fresh: dict[str, tuple[str, str]], known: Iterable[str]) -> None:
    """Write readings into the index; one that is damaged or of another version is begun anew.

    `known`: run ids that it has; those whose folder is gone are removed.
    """
    path = root / INDEX
    gone = [(run_id,) for run_id in known if not (root / "runs" / run_id).is_dir()]
    rows = [(run_id, *kept, _checksum(run_id, *kept)) for run_id, kept in fresh.items()]
    for _ in range(2):
        try:
            with contextlib.closing(sqlite3.connect(path)) as index, index:
                index.execute("PRAGMA synchronous = OFF")  # a torn one is recognised
                index.execute("BEGIN IMMEDIATE")
                index.execute("CREATE TABLE IF NOT EXISTS about (version)")
                if index.execute("SELECT version FROM about").fetchall() != [(_version(),)]:
                    index.execute("DELETE FROM about")
                    index.execute("INSERT INTO about VALUES (?)", (_version(),))
                    index.execute("DROP TABLE IF EXISTS runs")
                columns = "run_id PRIMARY KEY, stamps, content, checksum"
                index.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns})")
                index.executemany("DELETE FROM runs WHERE run_id = ?", gone)
                index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", rows)
            return
        except sqlite3.OperationalError:  # locked, read-only or full: the next report may succeed
            return
        except (sqlite3.DatabaseError, OSError):
            with contextlib.suppress(OSError):
                path.with_name(f"{INDEX}-journal").unlink(missing_ok=True)
                path.unlink()


def _checksum(*texts: Any) -> int:
    return zlib.crc32("\0".join(map(str, texts)).encode())


@cache
def _version() -> str:
    """Digest of the code that reads runs, which a kept reading is as good as."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    package = Path(__file__).parents[1]
    for path in (package / "report" / "coefficients.py", *sorted((package / "store").glob("*.py"))):
        found.update(path.read_bytes())
    return found.hexdigest()
