"""Errors a user can fix: one sentence each, with a documented exit code.

The command line prints the sentence and nothing else. Everything that is *not* a `HarnessError`
is a bug in the harness or a plugin and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

EXIT_DONE = 0
EXIT_CELL_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class HarnessError(Exception):
    """A failure with a cause the user can name; `exit_code` is what the process returns."""

    exit_code = EXIT_CELL_FAILED


class ConfigError(HarnessError):
    """The grid, a flag or a plugin name is wrong: nothing was started."""

    exit_code = EXIT_BAD_INPUT


class CellsFailed(HarnessError):
    """Some cells of a grid did not finish: `failed` says why by run id, `rows` are the others'."""

    def __init__(self, failed: Mapping[str, str], rows: Any) -> None:
        super().__init__("\n".join(f"{run_id}: {reason}" for run_id, reason in failed.items()))
        self.failed, self.rows = dict(failed), rows


class ArtifactError(HarnessError):
    """A file the harness wrote earlier is damaged; the message names the file and the remedy."""


class DamagedError(ArtifactError):
    """The content of a file is not what the harness writes, as after a crash or an edit by hand."""


class DivergedError(HarnessError):
    """Training produced a value that is not finite; `step` is the first one that did."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


def file_sentence(error: OSError) -> str:
    """One sentence for an OSError: file and reason, and what to do if the disk is full."""
    mend = "; free some space, the same command continues" if error.errno in FULL else ""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}{mend}"


#: pydantic's error type -> the message shown instead, where pydantic's own is too technical
WORDS = {
    "missing": "is needed",
    "dict_type": "must be a section of key: value",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "model_type": "must be a section of key: value",
    "string_type": "must be text",
}


def complaint(item: Mapping[str, Any], known: Iterable[str]) -> str:
    """One of pydantic's errors as a short message; `known`: the valid keys at that place."""
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(item['loc'][-1]), known)}"
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    if kind == "too_short":
        return f"needs at least {item['ctx']['min_length']} item"
    if kind == "union_tag_invalid":
        tags = item["ctx"]
        return (
            f"{tags['discriminator']} must be one of {tags['expected_tags']}, got {tags['tag']!r}"
        )
    if kind == "union_tag_not_found":
        return f"{item['ctx']['discriminator']} is needed"
    words = WORDS.get(kind) or str(item["msg"]).replace("Input should be", "must be", 1)
    return (
        words if kind == "missing" or isinstance(value, dict | list) else f"{words}, got {value!r}"
    )


def described(value: object) -> str:
    """Type and size of an unexpected value, for messages: `None`, `a float`, `a tuple of 2`."""
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    if isinstance(value, tuple | list | dict | set):
        return f"{article} {name} of {len(value)}"
    shape = getattr(value, "shape", None)
    if shape is None:
        return f"{article} {name}"
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return f"{article} {name} of shape {list(shape)}" + (f" in {dtype}" if dtype else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'? known: ...)`, ready to be appended to a sentence."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f" ({hint}known: {', '.join(names) or 'none'})"
