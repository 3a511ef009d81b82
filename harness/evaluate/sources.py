"""Sets of images on disk: a folder or a zip of PNG and JPEG files, or an .npz array.

Everything that can be wrong is found when a source is opened, by reading every header, before any
network is loaded; pixels are decoded later, a batch ahead of whoever uses them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.api import ConfigError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
GREY = ("1", "L", "LA", "I;16", "I")
LARGEST = 1 << 28  # bytes of one file inside a zip; an image that needs more is a bomb
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

        Afterwards `digest` is the hash of all pixels, whatever container they came in.
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
        ConfigError: missing, empty, damaged, of mixed sizes, or not images at all.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such folder or file; give images as a folder, .zip or .npz")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if _is_image(p.name) and p.is_file())
        names = [str(p.relative_to(path)) for p in files]
        return _encoded(path, names, lambda k: files[k].read_bytes(), lambda k: files[k].open("rb"))
    if path.suffix.lower() == ".zip":
        return _open_zip(path)
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
        ConfigError: it is no .npz, is damaged, or holds Python objects.
    """
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what numpy raises into a sentence."""
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


def _is_image(name: str) -> bool:
    """By its ending; `._x.png` is macOS's note about x.png."""
    return name.lower().endswith(ENDINGS) and not name.startswith("._")


def _open_zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ConfigError(
            f"{path} is no readable zip ({error}): a truncated copy?; copy it again"
        ) from None
    members = sorted(
        (m for m in archive.infolist() if _is_image(PurePosixPath(m.filename).name)),
        key=lambda m: m.filename,
    )
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0:1]:
            raise ConfigError(
                f"{path}: it holds a file called {member.filename!r}, which points outside; a zip"
                " made so is not to be trusted, make it again"
            )
        if member.file_size > LARGEST:
            raise ConfigError(
                f"{path}: {member.filename!r} would unpack to {member.file_size:,} bytes, which no"
                " image needs; make the zip again"
            )
    names = [member.filename for member in members]
    return _encoded(
        path, names, lambda k: archive.read(members[k]), lambda k: archive.open(members[k])
    )


def _encoded(
    path: Path,
    names: list[str],
    read: Callable[[int], bytes],
    stream: Callable[[int], object],
) -> Source:
    """A source of image files: headers are read here, pixels by `load`."""
    if not names:
        raise ConfigError(f"{path} holds no images ({', '.join(ENDINGS)})")
    modes, size = set(), None
    for k, name in enumerate(names):
        with _telling(path, name), stream(k) as file, Image.open(file) as image:
            modes.add(image.mode)
            if size is None:
                size = image.size
            elif image.size != size:
                raise ConfigError(
                    f"{path}: {name} is {image.size[0]}x{image.size[1]} but {names[0]} is"
                    f" {size[0]}x{size[1]}; resize them to one size first"
                )
    grey = all(mode in GREY for mode in modes)
    mode = "L" if grey else "RGB"

    def load(k: int) -> Images:
        with _telling(path, names[k]), Image.open(io.BytesIO(read(k))) as image:
            pixels = np.asarray(image.convert(mode))
        return pixels[:, :, None] if grey else pixels

    notes = []
    if not grey and modes & set(GREY):
        notes.append(f"{path}: grey and colour images are mixed; grey ones are repeated to RGB")
    if modes & {"RGBA", "LA", "PA"} or "P" in modes:
        notes.append(f"{path}: transparency, where there is any, is dropped")
    if modes & {"I;16", "I"}:
        notes.append(f"{path}: 16-bit images are cut to 8 bits")
    width, height = size
    return _checked(Source(path, len(names), (1 if grey else 3, height, width), load, notes))


@contextlib.contextmanager
def _telling(path: Path, name: str) -> Iterator[None]:
    """Turn what a decoder raises into a sentence that names the file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path}: image {name} cannot be read ({error}); remove or replace it"
        ) from None


def _checked(source: Source) -> Source:
    if source.n < 2:
        raise ConfigError(
            f"{source.path} holds {source.n} image{'s' * (source.n != 1)}; a comparison needs 2 or"
            " more"
        )
    return source
