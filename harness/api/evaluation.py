"""Feature extractors and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from harness.api.plugin import Plugin
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class Extractor(Plugin):
    """Turns samples into feature vectors; `id` names everything that can change their values.

    Images arrive as uint8 [B, C, H, W], C = 1 or 3 (what to do with grey is the extractor's own
    affair), other data as float [B, d].
    """

    #: what happens to pixels before the first layer (`tf1-bilinear`, `pil-bicubic`, `native`, ...)
    preprocess: ClassVar[str] = "native"
    #: sha256 of the weights, or the beginning of it; empty where there are none
    digest: ClassVar[str] = ""
    #: length of a feature vector; None where it is that of the samples
    dim: ClassVar[int | None] = None
    #: whether it takes images alone
    images_only: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Name, revision, weights and preprocessing in one string, as it stands in the tables."""
        name = self.name if self.revision == 1 else f"{self.name}.r{self.revision}"
        return f"{name}@{self.digest[:8]}/{self.preprocess}" if self.digest else name

    def ready(self, *, allow_download: bool = False) -> Self:
        """Find the weights and check their hash, before anything is sampled; returns self.

        Raises:
            ConfigError: no weights, or not the right ones; the sentence says what to do.
        """
        return self

    def to(self, device: Any) -> Self:
        """Compute on a device; returns self."""
        return self

    def __call__(self, samples: Tensor) -> Tensor:
        """Return features [B, dim], floating, for samples [B, *shape]."""
        raise self.lacks("__call__(self, samples)")

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, h, w], fine to coarse, each half as large as the one before.

        Of float images [B, C, H, W] in [-1, 1], differentiable in them: what a discriminator sees.

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
            ConfigError: this extractor has no classifier whose logits would mean anything.
        """
        raise ConfigError(
            f"extractor {self.name!r} has no class logits: Inception Score needs extractor"
            " 'inception', with the official weights"
        )


class Score(NamedTuple):
    """A metric's value, with the standard deviation of its estimate where it has one."""

    value: float
    std: float | None = None


#: what `Metric.needs` may ask for by way of an extractor
EXTRACTED = ("moments", "features", "logits")


class Metric(Plugin):
    """A number that says how good samples are.

    `needs` says what `compute` gets of generated and reference samples:

    - "moments": harness.evaluate.moments.Moments, enough for Fréchet distances and cheap to keep;
    - "features": all vectors [n, dim];
    - "logits": of the extractor's classifier, and no reference;
    - "samples": images uint8 [n, C, H, W] or vectors [n, d] as extractors see them, no extractor;
    - "trajectory": the samples, float64 [n, d], and the teacher's own ODE solution from the same
      noise, row for row.
    """

    needs: ClassVar[str] = "features"
    #: of a metric that needs samples: whether it takes images alone
    images_only: ClassVar[bool] = False
    lower_is_better: ClassVar[bool] = True

    def compute(self, generated: Any, reference: Any) -> float | Score:
        """Return the value for what `needs` says, of generated and of reference samples."""
        raise self.lacks("compute(self, generated, reference)")


def misfit(metric: type[Metric], extractor: type[Extractor], images: bool) -> str:
    """Why a metric cannot be computed from an extractor's features of the data; empty if it can.

    Asked of the classes, so that it is known before anything is made or weights are looked for.
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
