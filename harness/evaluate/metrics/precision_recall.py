"""Improved precision and recall (Kynkäänniemi et al. 2019), computed by torch-fidelity."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import ConfigError, Metric, Params, register_metric

if TYPE_CHECKING:
    from torch import Tensor

#: the last pair of samples (weak references) and its result: one computation gives both metrics
_last: tuple[tuple[Any, Any, int], dict[str, float]] | None = None


class _Neighbours(Metric):
    """Base of precision and recall: a sample's neighbourhood is the ball to its k-th neighbour."""

    class Params(Params):
        """`neighbourhood`: k."""

        neighbourhood: int = Field(default=3, ge=1)

    lower_is_better = False

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`."""
        global _last
        k = self.params.neighbourhood
        if min(len(generated), len(reference)) <= k:
            raise ConfigError(
                f"{self.name} needs more than {k} samples on each side, got {len(generated)} and"
                f" {len(reference)}"
            )
        key = (weakref.ref(generated), weakref.ref(reference), k)
        if _last is None or not _same(_last[0], key):
            from torch_fidelity.metric_prc import prc_features_to_metric

            found = prc_features_to_metric(
                generated, reference, prc_neighborhood=k, save_cpu_ram=True, verbose=False
            )
            _last = (key, found)
        return _last[1][self.name]


@register_metric("precision")
class Precision(_Neighbours):
    """Improved precision: share of generated samples in the neighbourhood of a reference sample."""


@register_metric("recall")
class Recall(_Neighbours):
    """Improved recall: share of reference samples in the neighbourhood of a generated sample."""


def _same(a: tuple[Any, Any, int], b: tuple[Any, Any, int]) -> bool:
    """Whether two keys name the same live tensors (== on references would compare their values)."""
    return a[0]() is b[0]() and a[1]() is b[1]() and a[2] == b[2]
