"""Image sets in the layout of EDM's dataset tool, as a zip or as a folder.

Images are indexed by sorted name; classes come from dataset.json (Karras et al. 2022,
dataset_tool.py). The list of names and the first image are checked when a grid is planned. If
memory suffices, all images are decoded on the first draw and kept; otherwise each is decoded
whenever it is needed.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import ConfigError, DatasetSpec, content_digest, located, register_dataset
from harness.data.images.decode import decode, read_header
from harness.data.images.files import LABELS, open_files
from harness.data.images.image_set import ImageSet, LabelParams
from harness.data.images.labels import read_labels

if TYPE_CHECKING:
    import numpy as np

MOST_PIXELS = 2**24


class LayoutParams(LabelParams):
    """`path` of the zip or folder; `max_size`: number of images of a fixed random subset."""

    path: str = located()
    max_size: int | None = Field(default=None, ge=1)


class EDMLayout(ImageSet):
    """Base class of both layouts; `name` is `zip` or `folder`.

    Raises:
        ConfigError: see `open_files`, `decode`, `read_labels`.
    """

    Params = LayoutParams

    def __init__(self, params: Any = None) -> None:
        if params is None:
            raise ConfigError(f"dataset {self.name!r}: path: name a {self.name} of images")
        super().__init__(params)
        self.files = open_files(params.path, self.name)
        images = [name for name in self.files.names if name != LABELS]
        self._labels, classes = read_labels(self.files, images) if params.labels else (None, 0)
        kept = subset(len(images), params.max_size)
        self.images = [images[i] for i in kept]
        if self._labels is not None:
            self._labels = self._labels[kept]
        self._told: set[str] = set()
        for note in self.files.notes:
            warnings.warn(note, stacklevel=2)
        shape = self._decoded_file(images[0]).shape
        chosen = params.model_dump(exclude={"path"})
        self.spec = DatasetSpec(
            shape=shape,
            digest=content_digest([self.files.digest(), chosen], length=64),
            classes=classes,
            size=len(kept),
        )

    def decode(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ImageSet.decode`."""
        import numpy as np

        pixels = np.empty((len(self.images), *self.spec.shape), dtype=np.uint8)
        for i in range(len(self.images)):
            pixels[i] = self._image(i)
        return pixels, self._labels

    def some(self, index: np.ndarray) -> np.ndarray:
        """See `ImageSet.some`; decoded anew, several at a time, if memory cannot hold them all."""
        import numpy as np

        if self.fits:
            return super().some(index)
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(self._image, index.tolist())))

    @property
    def labels(self) -> np.ndarray | None:
        """See `ImageSet.labels`."""
        return self._labels

    @cached_property
    def fits(self) -> bool:
        """Whether all decoded images take at most half of the free memory."""
        return len(self.images) * math.prod(self.spec.shape) <= free_memory() / 2

    def _image(self, i: int) -> np.ndarray:
        """uint8 [C, H, W], of the shape of the first image."""
        pixels = self._decoded_file(self.images[i])
        if pixels.shape != self.spec.shape:
            raise ConfigError(
                f"{self.files.where}: {self.images[i]}: is {_say(pixels.shape)}, the first image is"
                f" {_say(self.spec.shape)}; all must be alike"
            )
        return pixels

    def _decoded_file(self, name: str) -> np.ndarray:
        what = f"{self.files.where}: {name}"
        content = self.files.read(name)
        _, height, width = read_header(io.BytesIO(content), what).shape
        if width != height or width * height > MOST_PIXELS:
            raise ConfigError(
                f"{what}: is {width}x{height} pixels; images must be square, at most"
                f" {int(MOST_PIXELS**0.5)} wide"
            )
        pixels, header = decode(content, what)
        for trait in sorted(header.traits - self._told):
            self._told.add(trait)
            warnings.warn(f"{what}: has {trait}", stacklevel=2)
        return pixels


@register_dataset("zip")
class ZipDataset(EDMLayout):
    """Images in a zip file, with labels in dataset.json, as made by EDM's dataset tool."""


@register_dataset("folder")
class FolderDataset(EDMLayout):
    """Images in a folder, with labels in dataset.json, as made by EDM's dataset tool."""


def _say(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'RGB'}"


def free_memory() -> int:
    """Free memory for this process in bytes: its share of what is left on the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes, each


def subset(size: int, most: int | None) -> list[int]:
    """Indices of the images used: all, or `most` by EDM's rule (seed 0), in increasing order."""
    if most is None or most >= size:
        return list(range(size))
    import numpy as np

    order = np.arange(size)
    np.random.RandomState(0).shuffle(order)
    return sorted(order[:most].tolist())
