"""The version of the files on disk; files of older versions can be read.

    1  no number in any file; rows without `std` and `extractor_id`, plugins without `located`
    2  spec.json and matrix.json say "schema": 2; the rest is as in 1
    3  rows and measures with `sampler`, `ema` and `seed` (absent: exact, None, 0); matrix.json with
       `objectives` beside numbers that not every cell owes, and `trained`; rows with `plugins` of
       plugins from outside (absent: see provenance.json, whose keys were axes, now `kind name`)

Fields are only added, with defaults that represent their absence. Lines of eval.jsonl have no
version (a file may contain lines of several versions): an unknown field is refused, because
ignoring it could put two protocols into one column.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import ArtifactError, DamagedError
from harness.store.files import read_json, write_json

SCHEMA = 3


def write_versioned(path: Path, data: dict[str, Any]) -> None:
    """Write plain data as JSON, with the schema version."""
    write_json(path, {"schema": SCHEMA, **data})


def read_versioned(path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """Read JSON of this schema version or an earlier one; the version is removed.

    Raises:
        ArtifactError: it was written by a newer precondbench.
        DamagedError: it is not a JSON object, or lacks one of the keys `needed`.
    """
    mend = "run the grid again: it is written anew"
    data = read_json(path, mend)
    if not isinstance(data, dict):
        raise DamagedError(f"{path} is damaged (it holds no JSON object); {mend}")
    version = data.pop("schema", 1)
    if not isinstance(version, int) or version > SCHEMA:
        raise ArtifactError(
            f"{path} has schema {version}, and this precondbench reads up to {SCHEMA}:"
            " it was written by a newer one; update this"
        )
    if lacking := [key for key in needed if key not in data]:
        raise DamagedError(f"{path} is damaged (it has no {lacking[0]}); {mend}")
    return data
