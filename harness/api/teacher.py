"""Clean data, and the teachers that model them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.api.plugin import Plugin
from harness.errors import ConfigError

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from harness.backbones.base import Backbone


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is, known without reading it all: shape [C, H, W] or [d], classes, size.

    `size` is None for a distribution one can draw from without end; `digest` names the content.
    `references`, if given, is with how many draws of the purpose "reference" samples are compared:
    for data that hold some back. Otherwise it is with all of them, or with as many as there are
    samples.
    """

    shape: tuple[int, ...]
    digest: str
    classes: int = 0
    size: int | None = None
    references: int | None = None


class Dataset(Plugin):
    """Clean data x_0, addressed by number so that order never depends on processes or resume."""

    spec: DatasetSpec

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return samples [B, *shape] float32 and one-hot labels [B, classes] (or None).

        `sample_index` [B] int64: sample k of `purpose` is the same whoever asks, and when.
        """
        raise self.lacks("draw(self, seed, purpose, sample_index)")

    def items(self) -> tuple[ndarray, ndarray | None]:
        """All samples of a finite set in stored order, float32 [N, *shape], and one-hot labels.

        numpy arrays, so that a teacher can be built on them without torch.

        Raises:
            ConfigError: this dataset has no end, or does not keep its samples.
        """
        raise ConfigError(f"dataset {self.name!r} is not a finite set: name an image set instead")


@dataclass(frozen=True)
class TeacherSpec:
    """What a teacher is: shape, noise range, sigma_data, classes, a digest of its content."""

    shape: tuple[int, ...]
    sigma_data: float
    digest: str
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    classes: int = 0


class Teacher(Plugin):
    """A denoiser D(x, sigma) ~ E[x_0 | x_0 + sigma eps = x] whose ODE is to be learnt."""

    spec: TeacherSpec
    #: whether `network()` gives a backbone; a teacher that is none gets one fitted to it.
    is_network: ClassVar[bool] = False
    #: whether that backbone is a U-Net of harness/backbones, whose dropout and s branch can be set.
    is_unet: ClassVar[bool] = False

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return D [B, *shape] in the dtype of `x` for noise levels `sigma`, a scalar or [B]."""
        raise self.lacks("denoise(self, x, sigma, labels=None)")

    def dataset(self) -> Dataset:
        """The data this teacher models, for grids that name no dataset of their own."""
        raise ConfigError(f"teacher {self.name!r} has no data of its own: name one in axes.dataset")

    def network(self) -> Backbone | None:
        """A fresh copy of the backbone whose raw output makes this denoiser, s branch included."""
        return None

    def backbones(self) -> list[Backbone]:
        """The networks that `denoise` runs, for whoever compiles or counts them; often none.

        The default finds those that are attributes of this teacher.
        """
        return [value for value in vars(self).values() if hasattr(value, "fuse")]

    def to(self, device: Any) -> Self:
        """Move to a device; returns self."""
        return self
