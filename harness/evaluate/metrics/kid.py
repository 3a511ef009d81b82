"""Kernel distance between features (KID if these are Inception's), computed by torch-fidelity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import ConfigError, Metric, Params, Score, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("kid")
class Kid(Metric):
    """Kernel distance: unbiased MMD^2 with a cubic kernel (KID, Bińkowski et al. 2018).

    Mean and standard deviation over random subsets. Unlike FID it has no bias in n.
    """

    class Params(Params):
        """`subsets`: their number; `subset_size`: samples in each, or half of all if fewer."""

        subsets: int = Field(default=100, ge=1)
        subset_size: int = Field(default=1000, ge=2)

    def compute(self, generated: Tensor, reference: Tensor) -> Score:
        """See `Metric.compute`."""
        from torch_fidelity.metric_kid import (
            KEY_METRIC_KID_MEAN,
            KEY_METRIC_KID_STD,
            kid_features_to_metric,
        )

        n = min(len(generated), len(reference))
        if n < 4:
            raise ConfigError(f"kid needs 4 samples on each side, got {n}")
        # a subset that is the whole sample is the same every time and has no spread
        size = self.params.subset_size if n >= self.params.subset_size else n // 2
        found = kid_features_to_metric(
            generated,
            reference,
            kid_subsets=self.params.subsets,
            kid_subset_size=size,
            verbose=False,
        )
        whole = size == len(generated) == len(reference)
        return Score(found[KEY_METRIC_KID_MEAN], None if whole else found[KEY_METRIC_KID_STD])
