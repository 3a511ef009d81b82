"""A content-addressed store of computed arrays (calibrations, fits, references), with digests."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from harness.digest import content_digest
from harness.errors import ArtifactError
from harness.store.files import read_json, tidy, write_atomic, write_json
from harness.store.lease import held

Arrays = dict[str, np.ndarray[Any, Any]]
#: seconds below which a part of a computation is not worth a file
CHEAP = 1.0
#: name, beside the arrays of a part, of what it took
SECONDS = ":seconds"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """Arrays, the path of their file (None: not stored), and the seconds it took to make them."""

    path: Path | None
    arrays: Arrays
    seconds: float


class Parts:
    """Parts of a long computation, kept on disk until its artifact is stored, to resume from.

    A part that was computed within `CHEAP` seconds is not kept, nor one that cannot be written. One
    that is damaged is ignored, and thus computed again.

    Args:
        root, kind, key: the artifact, see `get_or_make`.
        code: digest of the code that computes the parts; those of other code are not read.

    Attributes:
        seconds: what it took to compute the parts that were read.
    """

    def __init__(self, root: Path, kind: str, key: dict[str, Any], code: str) -> None:
        self.artifact = _path(root, kind, key)
        self.folder = self.artifact.with_name(f"{self.artifact.stem}.{code}.parts")
        self.key = key
        self.seconds = 0.0

    def read(self, name: str) -> Arrays | None:
        """The arrays of a part, if it was kept."""
        for path in self.folder.glob(f"{name}.*.safetensors"):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.suffixes[-2][1:]:
                arrays = load(content)
                self.seconds += float(arrays.pop(SECONDS))
                return arrays
        return None

    def write(self, name: str, arrays: Mapping[str, Any], seconds: float) -> None:
        """Keep a part that took `seconds`; `name` has no dot, `arrays` are tensors or arrays."""
        if seconds < CHEAP:
            return
        try:
            plain = {key: np.asarray(value) for key, value in arrays.items()}
            content = packed({**plain, SECONDS: np.array(seconds)}, str(self.folder / name))
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(parents=True)
                write_json(self.folder / "key.json", {"key": self.key})  # by one process alone
            digest = hashlib.sha256(content).hexdigest()[:16]
            write_atomic(self.folder / f"{name}.{digest}.safetensors", content)
        except (OSError, ArtifactError, RuntimeError, TypeError):
            log.debug("part %s of %s is not kept", name, self.folder, exc_info=True)

    def remove(self) -> None:
        """Delete all parts of the artifact, those of other code too."""
        for folder in self.artifact.parent.glob(f"{self.artifact.stem}.*.parts"):
            shutil.rmtree(folder, ignore_errors=True)


def _path(root: Path, kind: str, key: dict[str, Any]) -> Path:
    return root / "artifacts" / kind / f"{content_digest(key, spaced=True)}.safetensors"


def get_or_make(
    root: Path | None,
    kind: str,
    key: dict[str, Any],
    make: Callable[[], Arrays],
    parts: Parts | None = None,
) -> Artifact:
    """Return the artifact for `key`; if it does not exist, make and store it under a lock.

    `parts`: what `make` keeps while it works. Their seconds count; they are deleted at the end.

    Without a results folder (`root` is None) it is made, bitwise the same, and not stored. If
    several processes call this, one makes it and the others wait and read. A damaged file raises an
    error and is never recomputed silently.

    Raises:
        ArtifactError: the stored file does not match its digest.
    """
    if root is None:
        started = time.perf_counter()
        arrays = load(packed(make(), f"artifact {kind}"))
        return Artifact(None, arrays, time.perf_counter() - started)
    path = _path(root, kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_suffix(".lease")):
        if not path.with_suffix(".json").exists():
            tidy(path.parent, f".{path.stem}.*.tmp")
            started = time.perf_counter()
            content = packed(make(), str(path))
            seconds = time.perf_counter() - started + (parts.seconds if parts else 0.0)
            write_atomic(path, content)
            digest = hashlib.sha256(content).hexdigest()
            write_json(
                path.with_suffix(".json"), {"key": key, "sha256": digest, "seconds": seconds}
            )
        if parts:
            parts.remove()
        return read(path)


def packed(arrays: Arrays, what: str) -> bytes:
    """Serialise arrays as safetensors, and check that they are the same when read back.

    Raises:
        ArtifactError: an array cannot be stored, or is changed by storing it.
    """
    # safetensors writes memory as it lies; ascontiguousarray would make vectors of scalars
    plain = {name: np.array(array, order="C", copy=True) for name, array in arrays.items()}
    try:
        content = save(plain)
        back = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        kinds = ", ".join(f"{name}: {array.dtype}" for name, array in plain.items())
        raise ArtifactError(f"{what} cannot be written ({error}; {kinds})") from None
    for name, array in plain.items():
        same = back[name].dtype == array.dtype and back[name].shape == array.shape
        if not same or back[name].tobytes() != array.tobytes():
            kind = f"{array.dtype} {list(array.shape)}"
            raise ArtifactError(
                f"{what} cannot be written: array {name!r} ({kind}) would be read back as another"
            )
    return content


def read(path: Path) -> Artifact:
    """Read an artifact and check its digest.

    Raises:
        ArtifactError: the file is missing or damaged, or does not match the digest in its .json.
    """
    mend = f"delete {path.with_suffix('.*')} and run again: it will be made anew"
    meta = read_json(path.with_suffix(".json"))
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != meta["sha256"]:
            raise ArtifactError(f"artifact {path} does not match its digest; {mend}")
        return Artifact(path, load(content), float(meta["seconds"]))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"artifact {path} cannot be read ({error}); {mend}") from None
