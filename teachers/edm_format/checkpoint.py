"""What every reader returns: the configuration of a network, and where in the file its tensors lie.

Opening a checkpoint reads no weights, so that a plan over many teachers costs nothing; each tensor
is read when the network is filled, straight from the file into its own memory.
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
    """A tensor in a file: `stored` elements of `dtype` from byte `start`, seen through strides.

    `laid`, if given, is the shape that `stride` is about; `shape` is then what that is reshaped to,
    which says any order of rows (see teachers/openai_format). `held`: the bytes, `start` counted in
    them, where the file does not keep them as they are.
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
        """Read the values into memory of their own, C-contiguous, in the dtype of the file.

        bfloat16, which numpy does not have, becomes float32: the upper half of its bits.

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
    """A tensor that a file leaves out because its values follow from the architecture."""

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
    """A checkpoint that was opened: the network's configuration and its tensors by state-dict key.

    `notes` are sentences for the user about what was assumed; `training` is what a teacher that was
    trained here says of its data and recipe; `reads_s` is whether the network is a student's, with
    a branch for the end of its jump in every block.
    """

    path: Path
    config: NetworkConfig
    tensors: dict[str, StoredTensor | Constant]
    notes: tuple[str, ...] = field(default=())
    training: dict[str, Any] | None = None
    reads_s: bool = False

    @property
    def mend(self) -> str:
        """What to do if the file turns out to be unusable: it is to be had where it came from."""
        if self.training is not None:
            return TRAIN
        return CONVERT if self.path.suffix.lower() == ".safetensors" else again(self.path)

    def refuse_bad(self, name: str, values: np.ndarray, limit: float = math.inf) -> None:
        """Refuse weights that are not finite, or whose size passes `limit`, the dtype's largest.

        Raises:
            ConfigError: names the file and the tensor.
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
    """Where to get a file again: NVIDIA's address for NVIDIA's files alone."""
    known = {Path(name).name: name for name in PUBLISHED}
    return f"get it again from {BASE_URL}{known[path.name]}" if path.name in known else AGAIN


def refusal(path: Path, problem: str, mend: str) -> ConfigError:
    """The error for a file that cannot be used: which, why, and what to do."""
    return ConfigError(f"{path}: {problem}; {mend}")


def require(weights: str | Path) -> Path:
    """Return the path of a weights file.

    Raises:
        ConfigError: there is none; the sentence says where to get it.
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
    """SHA-256 of a file, in hexadecimal; read in pieces, and once while it stays unchanged."""
    status = path.stat()
    return _digest(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
