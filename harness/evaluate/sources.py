"""Sets of images on disk: a folder or a zip of image files, or an .npz array.

`harness.data.images` determines which files of a folder or zip are used and how they are decoded,
as for training data.

Opening a source reads every header, so that errors appear before any network is loaded; pixels are
decoded later, one batch ahead of their use.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.api import ConfigError
from harness.data.images.decode import decode, read_header
from harness.data.images.files import LABELS, open_files

#: what numpy and zipfile raise for damaged content (AttributeError: a bare .npy named .npz)
READING_ERRORS = (
    ValueError,
    OSError,
    EOFError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)
Images = np.ndarray


@dataclass
class Source:
    """`n` images of one shape [C, H, W]; `load(k)` decodes the k-th as uint8 [H, W, C]."""

    path: Path
    n: int
    shape: tuple[int, int, int]
    load: Callable[[int], Images]
    notes: list[str] = field(default_factory=list)
    digest: str = ""

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield uint8 [B, C, H, W] in order, decoded one batch ahead by another thread.

        Afterwards `digest` is the hash of all pixels, independent of the container.
        """
        content = hashlib.sha256(repr((self.n, self.shape)).encode())
        starts = range(0, self.n, size)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._batch, 0, size)
            for start in starts:
                pixels = ahead.result()
                if start + size < self.n:
                    ahead = pool.submit(self._batch, start + size, size)
                content.update(pixels.tobytes())
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        self.digest = content.hexdigest()

    def _batch(self, start: int, size: int) -> Images:
        return np.stack([self.load(k) for k in range(start, min(start + size, self.n))])


def open_images(path: str | Path) -> Source:
    """Open a folder, a zip, or an .npz with images in `arr_0`.

    Raises:
        ConfigError: it is missing, empty or damaged, has images of several sizes, or no images.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such folder or file; give images as a folder, .zip or .npz")
    if path.is_dir():
        return _encoded(path, "folder")
    if path.suffix.lower() == ".zip":
        return _encoded(path, "zip")
    if path.suffix.lower() == ".npz":
        return _of_array(path, read_npz(path))
    raise ConfigError(f"{path}: expected a folder, a .zip or an .npz")


def npz_names(path: Path) -> list[str]:
    """Names of the arrays of an .npz; see `read_npz`."""
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return list(file.files)


def read_npz(path: Path) -> dict[str, Images]:
    """All arrays of an .npz; nothing in it is unpickled.

    Raises:
        ConfigError: it is not an .npz, is damaged, or contains Python objects.
    """
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn numpy's exceptions on damaged files into a `ConfigError`."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except READING_ERRORS as error:
        raise ConfigError(
            f"{path} is no readable .npz ({error}): truncated, or not plain arrays; make it again"
            " with numpy.savez"
        ) from None


def _of_array(path: Path, arrays: dict[str, Images]) -> Source:
    array = arrays.get("arr_0", arrays.get("images"))
    if array is None:
        raise ConfigError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected images in arr_0 (uint8"
            " [N, H, W, C]) or statistics (mu and sigma)"
        )
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise ConfigError(
            f"{path}: arr_0 is {array.dtype} {list(array.shape)}, expected uint8 [N, H, W, C] with"
            " C = 1 or 3"
        )
    n, height, width, channels = array.shape
    return _checked(Source(path, n, (channels, height, width), lambda k: array[k]))


def _encoded(path: Path, kind: str) -> Source:
    """A source of image files: headers are read here, pixels by `load`."""
    files = open_files(path, kind, str(path))
    names = [name for name in files.names if name != LABELS]
    channels: set[int] = set()
    traits: Counter[str] = Counter()
    size: tuple[int, ...] = ()
    for name in names:
        with files.open(name) as file:
            shape, found = read_header(file, f"{path}: image {name}")
        size = size or shape[1:]
        if shape[1:] != size:
            raise ConfigError(
                f"{path}: {name} is {shape[2]}x{shape[1]} but {names[0]} is {size[1]}x{size[0]};"
                " resize them to one size first"
            )
        channels.add(shape[0])
        traits.update(found)
    most = max(channels)

    def load(k: int) -> Images:
        pixels, _ = decode(files.read(names[k]), f"{path}: image {names[k]}")
        return np.broadcast_to(pixels, (most, *pixels.shape[1:])).transpose(1, 2, 0)

    notes = list(files.notes)
    if len(channels) > 1:
        notes.append(f"{path}: grey and colour images are mixed; grey ones are repeated to RGB")
    notes += [f"{path}: {n} of {len(names)} images have {trait}" for trait, n in traits.items()]
    return _checked(Source(path, len(names), (most, *size), load, notes))


def _checked(source: Source) -> Source:
    if source.n < 2:
        raise ConfigError(
            f"{source.path} holds {source.n} image{'s' * (source.n != 1)}; a comparison needs 2 or"
            " more"
        )
    return source
