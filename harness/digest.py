"""The hash of plain data that identifies runs, teachers, artifacts and checkpoints."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_digest(content: Any, *, length: int = 16, spaced: bool = False) -> str:
    """First `length` hex digits of the SHA-256 of plain data as JSON with sorted keys.

    `spaced`: with a space after commas and colons, the form in which artifacts and checkpoints are
    hashed.
    """
    separators = None if spaced else (",", ":")
    text = json.dumps(content, sort_keys=True, separators=separators)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
