"""Kernel distance between features (KID if these are Inception's); torch-fidelity computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import ConfigError, Metric, Params, Score, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("kid")
class Kid(Metric):
    """Unbiased MMD^2 with a cubic kernel (Bińkowski et al. 2018): no bias in n, so a check on FID.

    The mean over random subsets, with its standard deviation over them.
    """

    class Params(Params):
        """`subsets` of `subset_size`; smaller samples are used whole."""

        subsets: int = Field(default=100, ge=1)
        subset_size: int = Field(default=1000, ge=2)

    def compute(self, generated: Tensor, reference: Tensor) -> Score:
        """See `Metric.compute`."""
        from torch_fidelity.metric_kid import kid_features_to_metric

        size = min(self.params.subset_size, len(generated), len(reference))
        if size < 2:
            raise ConfigError("kid needs 2 samples on each side")
        found = kid_features_to_metric(
            generated,
            reference,
            kid_subsets=self.params.subsets,
            kid_subset_size=size,
            verbose=False,
        )
        return Score(found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"])
