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
    """Properties of a dataset, without its data: shape [C, H, W] or [d], classes, size.

    `size` is None for a distribution that can be sampled without limit; `digest` identifies the
    content. `references`, for data with a held-out part, is the number of draws of the purpose
    "reference" that generated samples are compared with. If None, the reference is the whole
    dataset, or as many draws as there are generated samples.
    """

    shape: tuple[int, ...]
    digest: str
    classes: int = 0
    size: int | None = None
    references: int | None = None


class Dataset(Plugin):
    """Clean data x_0, addressed by sample index: order is independent of processes and resuming."""

    spec: DatasetSpec

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return samples [B, *shape] float32 and one-hot labels [B, classes] (or None).

        `sample_index` [B] int64: sample k is a function of (seed, purpose, k) alone.
        """
        raise self.lacks("draw(self, seed, purpose, sample_index)")

    def items(self) -> tuple[ndarray, ndarray | None]:
        """All samples of a finite set in stored order, float32 [N, *shape], and one-hot labels.

        numpy arrays, so that a teacher can be built on them without torch.

        Raises:
            ConfigError: this dataset is not a finite set of stored samples.
        """
        raise ConfigError(f"dataset {self.name!r} is not a finite set: name an image set instead")


@dataclass(frozen=True)
class TeacherSpec:
    """Properties of a teacher: shape, noise range, sigma_data, classes, digest of its content."""

    shape: tuple[int, ...]
    sigma_data: float
    digest: str
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    classes: int = 0


class Teacher(Plugin):
    """A denoiser D(x, sigma) ~ E[x_0 | x_0 + sigma eps = x] whose ODE is distilled."""

    spec: TeacherSpec
    #: whether `network()` returns a backbone; if not, students start from one fitted to `denoise`.
    is_network: ClassVar[bool] = False
    #: whether that backbone is a U-Net of harness/backbones, whose dropout and s branch can be set.
    is_unet: ClassVar[bool] = False

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return D [B, *shape] in the dtype of `x` for noise levels `sigma`, a scalar or [B]."""
        raise self.lacks("denoise(self, x, sigma, labels=None)")

    def dataset(self) -> Dataset:
        """The data this teacher models, used by grids that name no dataset.

        Raises:
            ConfigError: the teacher has no data of its own.
        """
        raise ConfigError(f"teacher {self.name!r} has no data of its own: name one in axes.dataset")

    def network(self) -> Backbone | None:
        """A new copy of the backbone whose raw output F gives this denoiser, with its branch for s.

        None if the teacher is not a network.
        """
        return None

    def backbones(self) -> list[Backbone]:
        """The networks that `denoise` runs, so that they can be compiled or counted; may be empty.

        The default returns those that are attributes of this teacher.
        """
        return [value for value in vars(self).values() if hasattr(value, "fuse")]

    def to(self, device: Any) -> Self:
        """Move to a device; returns self."""
        return self
