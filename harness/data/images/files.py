"""Where an image set's files lie: in a zip or in a folder, under the same names."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from harness.api import ConfigError, content_digest

LABELS = "dataset.json"
IMAGES = (".png", ".jpg", ".jpeg")
LAYOUT = (
    "expected are square PNG or JPEG images of one size, e.g. 00000/img00000000.png, and for labels"
    ' a dataset.json {"labels": [[name, class], ...]}'
)
#: no honest file of an image set is larger: one small image, or the labels of a few million
MOST_BYTES = {LABELS: 2**30}
MOST_IMAGE_BYTES = 2**26


class Files(Protocol):
    """Names and contents of an image set, and a fingerprint of both."""

    where: str
    names: list[str]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            ConfigError: it is damaged, or far larger than an image can be.
        """

    def digest(self) -> str:
        """SHA-256 of everything, hexadecimal; the same as long as no byte changes."""


def open_files(path: str, kind: str) -> Files:
    """The files at `path`, a "zip" or a "folder".

    Raises:
        ConfigError: nothing is there, or it cannot be an image set; the sentence says what is
            expected.
    """
    where = f"dataset {kind!r}: {path}"
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
    """A zip, read in place; names that lead out of it are refused."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"{where}: is not a whole zip file ({error}); copy or make it again"
            ) from None
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        for info in infos:
            _refuse_odd_name(info.filename, where)
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) < len(infos):
            raise ConfigError(f"{where}: holds two files of one name; make it again")
        self.names = wanted(self._infos, where)

    def read(self, name: str) -> bytes:
        """See `Files.read`."""
        _refuse_large(name, self._infos[name].file_size, self.where)
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, ValueError) as error:
            raise ConfigError(
                f"{self.where}: {name} cannot be read ({error}); copy or make the zip again"
            ) from None

    def digest(self) -> str:
        """See `Files.digest`; of the zip file itself."""
        status = self.path.stat()
        return _file_digest(self.path.resolve(), status.st_size, status.st_mtime_ns)


class FolderFiles:
    """A folder with all its sub-folders; links that lead out of it are followed like files."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        inside = (p for p in path.rglob("*") if p.is_file())
        self.names = wanted((p.relative_to(path).as_posix() for p in inside), where)

    def read(self, name: str) -> bytes:
        """See `Files.read`."""
        path = self.path / name
        try:
            _refuse_large(name, path.stat().st_size, self.where)
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{self.where}: {name} cannot be read ({error.strerror}); check its permissions"
            ) from None

    def digest(self) -> str:
        """See `Files.digest`; of every name with the digest of its file."""
        listed = []
        for name in self.names:
            status = (self.path / name).stat()
            at = (self.path / name).resolve()
            listed.append([name, _file_digest(at, status.st_size, status.st_mtime_ns)])
        return content_digest(listed, length=64)


def wanted(names: object, where: str) -> list[str]:
    """The sorted names of images, with dataset.json if it is there; hidden files are passed over.

    Raises:
        ConfigError: there is no image, or something that is neither.
    """
    kept = []
    for name in sorted(names):  # type: ignore[call-overload]
        path = PurePosixPath(name)
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            continue
        if name != LABELS and path.suffix.lower() not in IMAGES:
            raise ConfigError(f"{where}: {name} is neither an image nor dataset.json; {LAYOUT}")
        kept.append(name)
    if not [name for name in kept if name != LABELS]:
        raise ConfigError(f"{where}: holds no image; {LAYOUT}")
    return kept


def _refuse_odd_name(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
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
