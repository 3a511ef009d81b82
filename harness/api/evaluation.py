"""Feature extractors and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from harness.api.plugin import Plugin
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class Extractor(Plugin):
    """Maps samples to feature vectors; `id` names everything that can change their values.

    The input is uint8 [B, C, H, W] for images, C = 1 or 3 (the extractor decides how to treat
    grey), and float [B, d] for other data.
    """

    #: what happens to pixels before the first layer (`tf1-bilinear`, `pil-bicubic`, `native`, ...)
    preprocess: ClassVar[str] = "native"
    #: sha256 of the weights, or the beginning of it; empty where there are none
    digest: ClassVar[str] = ""
    #: length of a feature vector; None where it is that of the samples
    dim: ClassVar[int | None] = None
    #: whether it accepts images only
    images_only: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Name, revision, digest of the weights and preprocessing in one string, as in tables."""
        name = self.name if self.revision == 1 else f"{self.name}.r{self.revision}"
        return f"{name}@{self.digest[:8]}/{self.preprocess}" if self.digest else name

    def ready(self, *, allow_download: bool = False) -> Self:
        """Find the weights and check their hash, before anything is sampled; returns self.

        Raises:
            ConfigError: the weights are missing or have another hash; the message says what to do.
        """
        return self

    def to(self, device: Any) -> Self:
        """Compute on a device; returns self."""
        return self

    def __call__(self, samples: Tensor) -> Tensor:
        """Return features [B, dim], floating, for samples [B, *shape]."""
        raise self.lacks("__call__(self, samples)")

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, h, w] for a discriminator, fine to coarse, each half the size.

        Computed from float images [B, C, H, W] in [-1, 1], and differentiable in them.

        Raises:
            ConfigError: this extractor has none.
        """
        raise ConfigError(
            f"extractor {self.name!r} has no feature maps for a discriminator: use 'digits-cnn' or"
            " 'lite0-imagenet', or a plugin with `maps`"
        )

    def logits(self, features: Tensor) -> Tensor:
        """Class logits [B, classes] for features [B, dim], for metrics that need a classifier.

        Raises:
            ConfigError: this extractor has no classifier.
        """
        raise ConfigError(
            f"extractor {self.name!r} has no class logits: Inception Score needs extractor"
            " 'inception', with the official weights"
        )


class Score(NamedTuple):
    """A metric's value, and the standard deviation of the estimate if the metric has one."""

    value: float
    std: float | None = None


#: values of `Metric.needs` that require an extractor
EXTRACTED = ("moments", "features", "logits")


class Metric(Plugin):
    """A scalar measure of sample quality.

    `needs` selects the input of `compute`, for generated and for reference samples:

    - "moments": harness.evaluate.moments.Moments, enough for Fréchet distances and cheap to keep;
    - "features": all vectors [n, dim];
    - "logits": class logits of the extractor [n, classes], and no reference;
    - "samples": images uint8 [n, C, H, W] or vectors [n, d] as extractors see them, no extractor;
    - "trajectory": the samples, float64 [n, d], and the teacher's own ODE solution from the same
      noise, row for row.
    """

    needs: ClassVar[str] = "features"
    #: for a metric that needs samples: whether it accepts images only
    images_only: ClassVar[bool] = False
    lower_is_better: ClassVar[bool] = True

    def compute(self, generated: Any, reference: Any) -> float | Score:
        """Return the value, from generated and reference samples in the form that `needs` names."""
        raise self.lacks("compute(self, generated, reference)")


def misfit(metric: type[Metric], extractor: type[Extractor], images: bool) -> str:
    """Reason why a metric cannot be computed with an extractor on these data; empty if it can.

    Takes classes, so that it can be decided before anything is made or weights are looked for.
    """
    if metric.images_only and not images:
        return f"metric {metric.name!r} takes images, but the data are vectors: leave it out"
    if metric.needs not in EXTRACTED:
        return ""
    if extractor.images_only and not images:
        return (
            f"extractor {extractor.name!r} takes images, but the data are vectors: use extractor"
            " 'raw'"
        )
    if metric.needs == "logits" and extractor.logits is Extractor.logits:
        return (
            f"extractor {extractor.name!r} has no class logits, which metric {metric.name!r} needs:"
            " use extractor 'inception', with the official weights"
        )
    return ""
