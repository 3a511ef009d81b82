"""Copies of the files of plugins (not built in), kept in a results folder when runs are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness.store.files import write_atomic

#: length of the digests of plugins' files (harness/registry.py, own_source)
LETTERS = 16


def keep_sources(results: Path, files: Iterable[Path]) -> None:
    """Copy plugins' files to artifacts/plugins/NAME-DIGEST.py, unless they exist."""
    for path in files:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:LETTERS]
        if not kept_source(results, digest):
            goal = results / "artifacts" / "plugins" / f"{path.stem}-{digest}{path.suffix}"
            write_atomic(goal, content)


def kept_source(results: Path, digest: str) -> Path | None:
    """Path of the kept file with this digest, or None."""
    return next((results / "artifacts" / "plugins").glob(f"*-{digest}.*"), None)
