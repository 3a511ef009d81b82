"""Stamps of files: what is cheap to look at and changes when a file's content does."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

#: a file that changed less than this before it was looked at may change again unseen, in ns
RECENT = 2_000_000_000


def stamp(path: str | Path) -> list[int] | None:
    """Size in bytes, times of change in ns, and inode of a file; None if there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_recent(found: list[int] | None) -> bool:
    """Whether a file with this stamp could be changed now and have the same stamp."""
    return found is not None and max(found[1:3]) > time.time_ns() - RECENT


def digests(root: Path, paths: Iterable[str], known: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Path -> [digest of the content, *stamp] of those of the files in `root` that exist.

    `known` is an earlier result of any file: where a stamp is unchanged its digest is taken from
    there. Files that have just been changed get no stamp, so that they are read again.
    """
    found: dict[str, list[Any]] = {}
    for path in paths:
        now = stamp(f"{root}/{path}")
        before = known.get(path)
        if now is None:
            continue
        if isinstance(before, list) and before[1:] == now:
            found[path] = before
        else:
            recent = is_recent(now)
            digest = hashlib.sha256((root / path).read_bytes()).hexdigest()[:16]
            found[path] = [digest] if recent else [digest, *now]
    return found
