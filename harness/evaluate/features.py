"""Features of a set of samples, accumulated batch by batch and shared by metrics and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from accelerate.utils import gather_object
from torch import Tensor

from harness.api import ConfigError, Extractor, HarnessError, Metric, Score
from harness.api.evaluation import misfit
from harness.evaluate.moments import Accumulator, Moments, fold


class Features:
    """Features of a set of samples: their moments, and with `keep` the vectors themselves.

    50,000 Inception vectors take 410 MB, their moments 32 MB.
    """

    def __init__(self, extractor: Extractor, keep: bool) -> None:
        self.extractor = extractor
        self.keep = keep
        self._accumulator = Accumulator()
        self._kept: list[Tensor] = []
        self._moments: Moments | None = None
        self._vectors: Tensor | None = None

    @classmethod
    def restored(
        cls, extractor: Extractor, moments: Moments, vectors: Tensor | None = None
    ) -> Features:
        """Make an object from moments, and vectors if any, that were extracted earlier."""
        made = cls(extractor, vectors is not None)
        made._moments, made._vectors = moments, vectors
        return made

    def add(self, samples: Tensor) -> None:
        """Extract a batch [B, *shape] on the device it lies on.

        Raises:
            HarnessError: the extractor did not return finite vectors [B, d].
        """
        found = self.extractor(samples)
        if found.dim() != 2 or len(found) != len(samples) or not found.is_floating_point():
            raise HarnessError(
                f"extractor {self.extractor.name!r} gave {found.dtype} {list(found.shape)} for"
                f" {len(samples)} samples; expected floating vectors [B, d]"
            )
        if not found.isfinite().all():
            name, mend = self.extractor.name, ""
            if self.extractor.digest:
                command = f"python -m harness fid --extractor {name} --verify-weights"
                mend = f"; check its weights with `{command}`"
            raise HarnessError(
                f"extractor {name!r} gave features that are not finite (NaN or infinity){mend}"
            )
        self._accumulator.add(found)
        if self.keep:
            self._kept.append(found.cpu())

    def add_all(self, batches: Iterable[Tensor]) -> Features:
        """Extract every batch; returns self."""
        for batch in batches:
            self.add(batch)
        return self

    def gather(self, gather: Callable[[list], list] = gather_object) -> Features:
        """Merge the features of all processes in rank order; collective.

        Each sample is counted exactly once, for any number of processes.
        """
        vectors = torch.cat(self._kept) if self._kept else None
        shares = gather([(self._accumulator.moments(), vectors)])
        moments = fold(moments for moments, _ in shares)
        parts = [vectors for _, vectors in shares if vectors is not None]
        return Features.restored(self.extractor, moments, torch.cat(parts) if parts else None)

    @property
    def moments(self) -> Moments:
        """Moments of all features added so far."""
        if self._moments is None:
            self._moments = fold([self._accumulator.moments()])
        return self._moments

    @property
    def vectors(self) -> Tensor:
        """All vectors [n, d], in order.

        Raises:
            HarnessError: only moments were kept.
        """
        if self._vectors is None and self._kept:
            self._vectors = torch.cat(self._kept)
            self._kept = []
        if self._vectors is None:
            raise HarnessError(
                "only the mean and covariance of these features are known; this metric needs the"
                " images themselves on both sides"
            )
        return self._vectors

    def of_kind(self, needs: str) -> Moments | Tensor:
        """The input of a metric with this `needs`: moments, logits or vectors."""
        if needs == "moments":
            return self.moments
        return self.extractor.logits(self.vectors) if needs == "logits" else self.vectors


def check_pair(metric: Metric, extractor: Extractor, images: bool) -> None:
    """Check before any work that a metric can be computed with an extractor on these data.

    Raises:
        ConfigError: the extractor has no classifier that the metric needs, or either needs images.
    """
    if reason := misfit(type(metric), type(extractor), images):
        raise ConfigError(reason)


def score(metric: Metric, generated: Features, reference: Features) -> Score:
    """A metric's value on two sets of features.

    Raises:
        HarnessError: out of memory, which a smaller batch size cannot mend.
    """
    needs = metric.needs
    other = reference.of_kind(needs) if needs != "logits" else None
    try:
        return as_score(metric.compute(generated.of_kind(needs), other))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise HarnessError(
            f"metric {metric.name!r} ran out of memory on the features of {generated.moments.n}"
            f" samples and {reference.moments.n} references: ask for fewer (evaluate.samples), or"
            " for another metric"
        ) from error


def as_score(value: float | Score) -> Score:
    """Convert a plain number to a `Score` without a standard deviation."""
    return value if isinstance(value, Score) else Score(float(value))


def few(n: int, dim: int) -> str | None:
    """A warning if there are fewer samples than feature dimensions, else None."""
    if n >= dim:
        return None
    return (
        f"{n} samples for {dim} feature dimensions: the covariance is rank-deficient and a Fréchet"
        " distance biased upwards; compare it at equal n only, or use kid"
    )
