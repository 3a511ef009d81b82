"""The hash of plain data, by which runs, teachers, artifacts and checkpoints are known."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_digest(content: Any, *, length: int = 16, spaced: bool = False) -> str:
    """Hash of plain data through canonical JSON: the identity of parameters and specs.

    `spaced`: with a space after commas and colons, as artifacts and checkpoints were always hashed.
    """
    separators = None if spaced else (",", ":")
    text = json.dumps(content, sort_keys=True, separators=separators)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
