"""Atomic files and JSON lines: a kill at any time leaves either the old content or the new."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import ArtifactError, DamagedError
from harness.home import without_home

#: name of a field of a JSON object -> its type or types
Fields = dict[str, type | tuple[type, ...]]
#: exceptions raised by text that is not JSON, or by JSON nested too deeply
NO_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with _named(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def tidy(folder: Path, pattern: str = ".*.tmp") -> None:
    """Remove temporary files of killed writers; only for the sole writer of the folder."""
    for leftover in list(folder.rglob(pattern)):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_changed(path: Path, text: str) -> None:
    """`write_atomic`, unless the file has this content already, since flushing can be slow."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as indented JSON, atomically; paths in the home folder begin with `~`.

    Raises:
        ArtifactError: a number is not finite, which JSON cannot represent.
    """
    write_atomic(path, _dumped(path, without_home(data), indent=1) + "\n")


def read_json(path: Path, mend: str = "delete it and run again: it will be rebuilt") -> Any:
    """Read a JSON file written by the harness; `mend` is the advice if it is damaged.

    Raises:
        DamagedError: the file does not hold JSON.
    """
    try:
        return json.loads(path.read_text())
    except NO_JSON as error:
        raise DamagedError(f"{path} is damaged ({error}); {mend}") from None


def read_record(path: Path, fields: Fields, mend: str, *, needed: str = "") -> dict[str, Any]:
    """Read a JSON object and check the types of those `fields` that are present.

    Raises:
        DamagedError: it is not an object, a field has another type, or `needed` is missing.
    """
    found = read_json(path, mend)
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged (it holds no JSON object); {mend}")
    if needed and needed not in found:
        raise DamagedError(f"{path} is damaged (it has no {needed}); {mend}")
    for name, kind in fields.items():
        if name in found and (not isinstance(found[name], kind) or isinstance(found[name], bool)):
            raise DamagedError(f"{path} is damaged ({name} is {found[name]!r}); {mend}")
    return found


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line and flush it to disk; an incomplete last line is removed first.

    Raises:
        ArtifactError: a number is not finite, which JSON cannot represent.
    """
    line = _dumped(path, record).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path), path.open("ab+") as file:
        _end_last_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a jsonl file; an incomplete last line is ignored.

    Raises:
        ArtifactError: a line before the last is not JSON.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    whole = [line for line in lines if line.strip()]
    try:  # all at once, which takes half the time
        records = json.loads(b"[" + b",".join(whole) + b"]")
    except NO_JSON:
        records = []
    if len(records) == len(whole):
        yield from records
        return
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except NO_JSON:
            if number == len(lines) - 1:
                return
            raise ArtifactError(
                f"{path}, line {number + 1} is damaged; delete that line and run again"
            ) from None


def trim(path: Path) -> None:
    """Remove an incomplete last line; only for the sole writer of the file."""
    if is_torn(path):
        with _named(path), path.open("ab+") as file:
            _end_last_line(file)


def is_torn(path: Path) -> bool:
    """Whether a jsonl file ends in an incomplete line, which `read_lines` ignores."""
    if not path.exists():
        return False
    last = path.read_bytes().rpartition(b"\n")[2].strip()
    try:
        json.loads(last or b"null")
    except NO_JSON:
        return True
    return False


def _dumped(path: Path, data: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(data, indent=indent, sort_keys=True, allow_nan=False)
    except ValueError:
        place, value = next(_not_finite(data, ""))
        raise ArtifactError(f"{path}: {place} is {value}, which is not written") from None


def _not_finite(data: Any, place: str) -> Iterator[tuple[str, float]]:
    """Yield (dotted path, value) of numbers in plain data that are not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        yield place, data
    items = data.items() if isinstance(data, dict) else ()
    for key, value in enumerate(data) if isinstance(data, list | tuple) else items:
        yield from _not_finite(value, f"{place}.{key}" if place else str(key))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file name to an OSError that lacks it, as for writing to a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _end_last_line(file: Any) -> None:
    """Remove an incomplete last line of an append-mode file, or add its newline if complete."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    try:
        json.loads(last)
    except NO_JSON:
        file.truncate(size - len(last))
        file.seek(0, os.SEEK_END)
    else:  # readers count it already
        file.write(b"\n")


def size_of(path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
    return path.lstat().st_size if path.exists() else 0
