"""`Checkpoint`, the result of every reader: a network's configuration, and its tensors in the file.

Opening a checkpoint reads no weights, so that `plan` is fast for many teachers; each tensor is read
when the network is filled, directly from the file into its own memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from teachers.edm_format.config import NetworkConfig

BASE_URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
#: the published files (under BASE_URL) and what they are.
PUBLISHED = {
    "edm-cifar10-32x32-uncond-vp.pkl": "CIFAR-10, DDPM++",
    "edm-cifar10-32x32-cond-vp.pkl": "CIFAR-10 with classes, DDPM++",
    "edm-cifar10-32x32-uncond-ve.pkl": "CIFAR-10, NCSN++",
    "edm-cifar10-32x32-cond-ve.pkl": "CIFAR-10 with classes, NCSN++",
    "edm-ffhq-64x64-uncond-vp.pkl": "FFHQ, DDPM++",
    "edm-ffhq-64x64-uncond-ve.pkl": "FFHQ, NCSN++",
    "edm-afhqv2-64x64-uncond-vp.pkl": "AFHQv2, DDPM++",
    "edm-afhqv2-64x64-uncond-ve.pkl": "AFHQv2, NCSN++",
    "edm-imagenet-64x64-cond-adm.pkl": "ImageNet with classes, ADM",
    "baseline/baseline-cifar10-32x32-uncond-vp.pkl": "CIFAR-10, Song et al.'s VP",
    "baseline/baseline-cifar10-32x32-uncond-ve.pkl": "CIFAR-10, Song et al.'s VE",
    "baseline/baseline-imagenet-64x64-cond-adm.pkl": "ImageNet, Dhariwal & Nichol's ADM",
}
BFLOAT16 = "bfloat16"
AGAIN = "get it again from where it came from"
CONVERT = "make it again with `python -m harness teacher convert`"
TRAIN = "make it again with `python -m harness teacher train`"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a strided view of `stored` elements of `dtype` from byte `start`.

    `laid`, if given, is the shape of the strided view, which is then reshaped to `shape`; this
    expresses a permutation of rows (see teachers/openai_format). `held`: the bytes themselves, for
    files that do not store them verbatim; `start` then counts in them.
    """

    path: Path
    start: int
    stored: int
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None
    laid: tuple[int, ...] | None = None
    held: bytes | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Read the values into a new C-contiguous array, in the dtype of the file.

        bfloat16, which numpy lacks, is converted exactly to float32.

        Raises:
            ConfigError: the file has changed since it was opened.
        """
        import numpy as np

        if self.dtype == BFLOAT16:
            words = replace(self, dtype="<u2").read()
            return (words.astype(np.uint32) << 16).view(np.float32)
        dtype = np.dtype(self.dtype)
        plain = self.stride is None or self.stride == contiguous(self.shape)
        first, count = (self.offset, self.count) if plain else (0, self.stored)
        begin = self.start + first * dtype.itemsize
        try:
            if self.held is None:
                flat = np.fromfile(self.path, dtype, count, offset=begin)
            else:
                flat = np.frombuffer(self.held, dtype, count, begin).copy()
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise refusal(self.path, problem, "check its permissions") from None
        if len(flat) != count:
            raise refusal(
                self.path, "became shorter while it was read", "try again when nothing writes to it"
            )
        if plain:
            return flat.reshape(self.shape)
        steps = [step * dtype.itemsize for step in self.stride or ()]
        laid = self.laid or self.shape
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], laid, steps)
        return np.ascontiguousarray(view).reshape(self.shape)


@dataclass(frozen=True)
class Constant:
    """A tensor that a file omits because its values follow from the architecture."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """See `StoredTensor`."""
        return self.values.shape

    @property
    def dtype(self) -> str:
        """See `StoredTensor`."""
        return self.values.dtype.str

    @property
    def count(self) -> int:
        """See `StoredTensor`."""
        return self.values.size

    def read(self) -> np.ndarray:
        """See `StoredTensor.read`."""
        return self.values.copy()


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: the network's configuration and its tensors by state-dict key.

    `notes`: assumptions made, as sentences for the user; `training`: data and recipe of a teacher
    trained by this harness; `reads_s`: whether the network is a student's, with a branch for s.
    """

    path: Path
    config: NetworkConfig
    tensors: dict[str, StoredTensor | Constant]
    notes: tuple[str, ...] = field(default=())
    training: dict[str, Any] | None = None
    reads_s: bool = False

    @property
    def mend(self) -> str:
        """Advice for an unusable file: where to get it again."""
        if self.training is not None:
            return TRAIN
        return CONVERT if self.path.suffix.lower() == ".safetensors" else again(self.path)

    def refuse_bad(self, name: str, values: np.ndarray, limit: float = math.inf) -> None:
        """Check that weights are finite, with absolute values up to `limit`, the dtype's largest.

        Raises:
            ConfigError: they are not; names the file and the tensor.
        """
        import numpy as np

        if values.dtype.kind != "f" or not values.size:
            return
        largest = float(np.abs(values).max())  # NaN if there is one
        if not math.isfinite(largest):
            raise refusal(self.path, f"tensor {name!r} holds NaN or infinity", self.mend)
        if largest > limit:
            problem = f"tensor {name!r} holds {largest:.3g}, more than {limit:.3g}"
            raise refusal(self.path, problem, "choose another precision for this teacher")


def contiguous(shape: Iterable[int]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(tuple(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def again(path: Path) -> str:
    """Advice where to get a file again; NVIDIA's address for NVIDIA's files only."""
    known = {Path(name).name: name for name in PUBLISHED}
    return f"get it again from {BASE_URL}{known[path.name]}" if path.name in known else AGAIN


def refusal(path: Path, problem: str, mend: str) -> ConfigError:
    """The ConfigError for an unusable file: path, problem and remedy."""
    return ConfigError(f"{path}: {problem}; {mend}")


def require(weights: str | Path) -> Path:
    """Return the path of a weights file.

    Raises:
        ConfigError: there is no such file; the message says where to get it.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    problem = "is a folder, not a file" if path.is_dir() else "no such file"
    known = {Path(name).name: name for name in PUBLISHED}
    name = known.get(path.with_suffix(".pkl").name)
    if name is not None:
        raise refusal(path, problem, f"download {BASE_URL}{name} to this place")
    names = ", ".join(PUBLISHED)
    raise refusal(path, problem, f"download one of {names} from {BASE_URL} and name its path here")


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; cached while size and time of change stay the same."""
    status = path.stat()
    return _digest(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
