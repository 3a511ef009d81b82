"""The files of an image set, in a zip or in a folder, with the same rules for both.

For training data and for `fid` alike, images are selected by suffix, and dataset.json has labels.
Hidden files and folders (`.ipynb_checkpoints`), `__MACOSX`, thumbnails, broken links and other
files are ignored, and counted in a note. Images of unsupported kinds (.gif, .tif) are refused,
since ignoring them would change the set.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from harness.api import ConfigError, content_digest

LABELS = "dataset.json"
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
UNREAD = (
    *(".gif", ".tif", ".tiff", ".apng", ".avif", ".heic", ".jp2", ".jfif", ".ppm", ".pgm", ".pnm"),
    *(".tga", ".dds", ".ico", ".psd", ".svg", ".exr"),
)
THUMBNAILS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir")
LAYOUT = (
    "expected are PNG, JPEG, WebP or BMP images of one size, e.g. 00000/img00000000.png, and for"
    ' labels a dataset.json {"labels": [[name, class], ...]}'
)
#: no honest file of an image set is larger: one small image, or the labels of a few million
MOST_BYTES = {LABELS: 2**30}
MOST_IMAGE_BYTES = 2**26
HIDDEN, NO_IMAGE, NOWHERE, LINKED = (
    "hidden or a thumbnail",
    "no image",
    "a link that leads nowhere",
    "a link to a folder, which is not followed",
)


class Files(Protocol):
    """Names and contents of an image set, and a fingerprint of both."""

    where: str
    names: list[str]
    #: sentences about what was passed over
    notes: list[str]

    def open(self, name: str) -> IO[bytes]:
        """Open one file, to read its header.

        Raises:
            ConfigError: see `read`.
        """

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            ConfigError: it is damaged, or far larger than an image can be.
        """

    def digest(self) -> str:
        """SHA-256 of everything, hexadecimal; the same as long as no byte changes."""


def open_files(path: str | Path, kind: str, where: str = "") -> Files:
    """The files at `path`, a "zip" or a "folder"; `where` begins what is said of them.

    Raises:
        ConfigError: it does not exist, or is not an image set; the message says what is expected.
    """
    where = where or f"dataset {kind!r}: {path}"
    found = Path(path)
    if kind == "zip" and found.is_file():
        return ZipFiles(found, where)
    if kind == "folder" and found.is_dir():
        return FolderFiles(found, where)
    if found.exists():
        other = "folder" if kind == "zip" else "zip"
        raise ConfigError(f"{where}: is not a {kind}; name the dataset {other!r} instead")
    raise ConfigError(f"{where}: no such {kind}; {LAYOUT}")


class ZipFiles:
    """A zip, read in place; member names that point outside of it are refused."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"{where}: is not a whole zip file ({error}); copy or make it again"
            ) from None
        # some programs of Windows write sub\0.png
        infos = [(info.filename.replace("\\", "/"), info) for info in self._zip.infolist()]
        infos = [(name, info) for name, info in infos if not name.endswith("/")]
        for name, _ in infos:
            _refuse_odd_name(name, where)
        self._infos = dict(infos)
        if len(self._infos) < len(infos):
            raise ConfigError(f"{where}: holds two files of one name; make it again")
        self.names, self.notes = wanted(dict.fromkeys(self._infos, ""), where)

    def open(self, name: str) -> IO[bytes]:
        """See `Files.open`."""
        _refuse_large(name, self._infos[name].file_size, self.where)
        return self._zip.open(self._infos[name])

    def read(self, name: str) -> bytes:
        """See `Files.read`."""
        _refuse_large(name, self._infos[name].file_size, self.where)
        try:
            return self._zip.read(self._infos[name])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, ValueError) as error:
            raise ConfigError(
                f"{self.where}: {name} cannot be read ({error}); copy or make the zip again"
            ) from None

    def digest(self) -> str:
        """See `Files.digest`; of the zip file itself."""
        status = self.path.stat()
        return _file_digest(self.path.resolve(), status.st_size, status.st_mtime_ns)


class FolderFiles:
    """A folder with all its sub-folders; symbolic links are followed."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        found = {}
        for folder, folders, files in os.walk(path, onerror=self._refuse):
            for inside in (Path(folder) / name for name in (*files, *folders)):
                if not inside.is_dir() or inside.is_symlink():
                    found[inside.relative_to(path).as_posix()] = _unusable(inside)
        self.names, self.notes = wanted(found, where)

    def open(self, name: str) -> IO[bytes]:
        """See `Files.open`."""
        path = self.path / name
        try:
            _refuse_large(name, path.stat().st_size, self.where)
            return path.open("rb")
        except OSError as error:
            raise self._refusal(name, error) from None

    def read(self, name: str) -> bytes:
        """See `Files.read`."""
        try:
            with self.open(name) as file:
                return file.read()
        except OSError as error:
            raise self._refusal(name, error) from None

    def digest(self) -> str:
        """See `Files.digest`; of every name with the digest of its file."""
        listed = []
        for name in self.names:
            status = (self.path / name).stat()
            at = (self.path / name).resolve()
            listed.append([name, _file_digest(at, status.st_size, status.st_mtime_ns)])
        return content_digest(listed, length=64)

    def _refuse(self, error: OSError) -> None:
        raise self._refusal(str(error.filename), error)

    def _refusal(self, name: str, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.where}: {name} cannot be read ({error.strerror}); check its permissions"
        )


def wanted(found: Mapping[str, str], where: str) -> tuple[list[str], list[str]]:
    """The sorted names of images, with dataset.json if it is there; and notes on all other files.

    Args:
        found: name -> why it cannot be used, empty if it can.

    Raises:
        ConfigError: there is no image, or one of a kind that is not read.
    """
    kept, passed = [], defaultdict(list)
    for name, why in sorted(found.items()):
        ending = PurePosixPath(name).suffix.lower()
        if any(_is_hidden(part) for part in PurePosixPath(name).parts):
            passed[HIDDEN].append(name)
        elif why:
            passed[why].append(name)
        elif name == LABELS or ending in IMAGES:
            kept.append(name)
        elif ending in UNREAD:
            raise ConfigError(
                f"{where}: {name} is an image of a kind that is not read; save it as PNG, or move"
                " it away"
            )
        else:
            passed[NO_IMAGE].append(name)
    notes = [f"{where}: passed over {_counted(names)}: {why}" for why, names in passed.items()]
    if not [name for name in kept if name != LABELS]:
        more = "".join(f"; passed over {_counted(n)}: {why}" for why, n in passed.items())
        raise ConfigError(f"{where}: holds no image{more}; {LAYOUT}")
    return kept, notes


def _unusable(path: Path) -> str:
    """Why what lies in a folder is no file; empty of a file, and of a link to one."""
    if path.is_file():
        return ""
    if path.is_symlink():
        return LINKED if path.is_dir() else NOWHERE
    return NO_IMAGE


def _is_hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX")) or part.lower() in THUMBNAILS


def _counted(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} files (the first is {names[0]})"


def _refuse_odd_name(name: str, where: str) -> None:
    path = PurePosixPath(name)
    drive = re.match("[A-Za-z]:", name)
    if path.is_absolute() or ".." in path.parts or drive or "\0" in name:
        raise ConfigError(
            f"{where}: holds a file named {name[:80]!r}, which leads out of it; do not trust it"
        )


def _refuse_large(name: str, size: int, where: str) -> None:
    if size > MOST_BYTES.get(name, MOST_IMAGE_BYTES):
        raise ConfigError(f"{where}: {name} unpacks to {size} bytes, more than an image can have")


@lru_cache(maxsize=2**21)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
