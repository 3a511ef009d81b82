"""CIFAR-10 and MNIST as torchvision keeps them on disk (optional extra `torchvision`).

Nothing is downloaded unless `download: true`. The digest is that of the files themselves, so that
planning needs neither torchvision nor torch once they exist.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from harness.api import ConfigError, DatasetSpec, content_digest, located, register_dataset
from harness.data.images.image_set import ImageSet, LabelParams

if TYPE_CHECKING:
    import numpy as np


class Known(NamedTuple):
    """A known dataset: its files below the root, and their content."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    shape: tuple[int, ...]
    sizes: tuple[int, int]


KNOWN = {
    "CIFAR10": Known(
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        (3, 32, 32),
        (50_000, 10_000),
    ),
    "MNIST": Known(
        "MNIST/raw",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        (1, 28, 28),
        (60_000, 10_000),
    ),
}


class TorchvisionParams(LabelParams):
    """`set` is one of torchvision's datasets, `root` the folder given to it."""

    set: Literal["CIFAR10", "MNIST"]
    root: str = located()
    split: Literal["train", "test"] = "train"
    download: bool = False


@register_dataset("torchvision")
class TorchvisionDataset(ImageSet):
    """CIFAR-10 or MNIST, read by torchvision (`torchvision` extra).

    Raises:
        ConfigError: files are missing and may not be downloaded, or torchvision is not installed.
    """

    Params = TorchvisionParams

    def __init__(self, params: Any = None) -> None:
        if params is None:
            raise ConfigError("dataset 'torchvision': set: name CIFAR10 or MNIST, and its root")
        super().__init__(params)
        known, train = KNOWN[params.set], params.split == "train"
        names = known.train if train else known.test
        paths = [Path(params.root) / known.folder / name for name in names]
        if not all(path.is_file() for path in paths):
            if not params.download:
                raise ConfigError(
                    f"dataset 'torchvision': {params.root}: no {known.folder}/{names[0]} there; put"
                    f" {params.set} where torchvision expects it, or set download: true"
                )
            self._open()
        listed = [[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in paths]
        chosen = params.model_dump(exclude={"root", "download"})
        self.spec = DatasetSpec(
            shape=known.shape,
            digest=content_digest([listed, chosen], length=64),
            classes=10 if params.labels else 0,
            size=known.sizes[0 if train else 1],
        )

    def decode(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ImageSet.decode`."""
        import numpy as np

        found = self._open()
        pixels = np.asarray(found.data, dtype=np.uint8)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        labels = np.asarray(found.targets, dtype=np.int64) if self.params.labels else None
        return np.ascontiguousarray(pixels), labels

    def _open(self) -> Any:
        p = self.params
        try:
            from torchvision import datasets
        except ImportError:
            raise ConfigError(
                "dataset 'torchvision': torchvision is not installed; pip install torchvision"
            ) from None
        try:
            return getattr(datasets, p.set)(p.root, train=p.split == "train", download=p.download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"dataset 'torchvision': {p.root}: {p.set}: {reason}") from None
