"""A finite set of images in memory as uint8, drawn by sample index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import Dataset, Params

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class ImageSet(Dataset):
    """Images as uint8 [N, C, H, W], decoded once when first drawn; draws are x / 127.5 - 1.

    Subclasses set `spec` without decoding and define `decode`; those that may be larger than memory
    also define `some` and `labels`. If there is a parameter `hflip` and it is true, half of all
    draws are mirrored, except those of the purpose "reference".
    """

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._decoded: tuple[np.ndarray, np.ndarray | None] | None = None

    @property
    def size(self) -> int:
        """The number of images, N."""
        return self.spec.size or len(self.decoded[0])

    def decode(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All images, uint8 [N, C, H, W], and labels: None, int64 [N], or float32 [N, classes].

        Raises:
            ConfigError: an image cannot be used; the message names it.
        """
        raise self.lacks("decode(self)")

    @property
    def decoded(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The result of `decode`, cached."""
        if self._decoded is None:
            self._decoded = self.decode()
        return self._decoded

    def some(self, index: np.ndarray) -> np.ndarray:
        """The images with these indices, uint8 [B, C, H, W]."""
        return self.decoded[0][index]

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, as returned by `decode`."""
        return self.decoded[1]

    def items(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Dataset.items`."""
        import numpy as np

        images, labels = self.decoded
        if labels is not None and labels.ndim == 1:
            labels = np.eye(self.spec.classes, dtype=np.float32)[labels]
        return scaled(images.astype(np.float32)), labels

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Dataset.draw`; made on the device of `sample_index`, float32 in [-1, 1]."""
        import torch
        from torch.nn.functional import one_hot

        from harness.data.images.order import flips, items

        index = items(seed, purpose, sample_index, self.size)
        x = torch.from_numpy(self.some(index.numpy()))
        if getattr(self.params, "hflip", False):
            x = torch.where(flips(seed, purpose, sample_index)[:, None, None, None], x.flip(3), x)
        x = scaled(x.to(sample_index.device).float())
        if (labels := self.labels) is None:
            return x, None
        label = torch.from_numpy(labels)[index].to(sample_index.device)
        return x, (one_hot(label, self.spec.classes) if label.ndim == 1 else label).float()


def scaled(pixels: Any) -> Any:
    """Scale pixels from 0..255 to [-1, 1]."""
    return pixels / 127.5 - 1


class LabelParams(Params):
    """`labels`: give each image its class; `hflip`: mirror half of the training draws."""

    labels: bool = False
    hflip: bool = False
