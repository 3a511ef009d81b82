"""The version of what is written to disk, and the promise that older versions are read.

    1  no number in any file; rows without `std` and `extractor_id`, plugins without `located`
    2  spec.json and matrix.json say "schema": 2; the rest is as in 1
    3  rows and measures with `sampler`, `ema` and `seed` (absent: exact, None, 0); matrix.json with
       `objectives` beside numbers that not every cell owes, and `trained`

Fields are only ever added, with a default that says what their absence meant. A line of eval.jsonl
carries no number (one file may hold lines of several versions): its fields say what it is, and one
that is unknown is refused, because passing over it could put two protocols into one column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import ArtifactError
from harness.store.files import read_json, write_json

SCHEMA = 3


def write_versioned(path: Path, data: dict[str, Any]) -> None:
    """Write plain data as JSON, with the version it is written in."""
    write_json(path, {"schema": SCHEMA, **data})


def read_versioned(path: Path) -> dict[str, Any]:
    """Read JSON of this version or an earlier one, without its number.

    Raises:
        ArtifactError: it was written by a newer precondbench, or is damaged.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} holds no JSON object; delete it and run again")
    version = data.pop("schema", 1)
    if not isinstance(version, int) or version > SCHEMA:
        raise ArtifactError(
            f"{path} has schema {version}, and this precondbench reads up to {SCHEMA}:"
            " it was written by a newer one; update this"
        )
    return data
