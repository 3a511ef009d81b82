"""Distances that depend on more than two moments: sliced Wasserstein and energy distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import Metric, Params, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("sliced-wasserstein")
class SlicedWasserstein(Metric):
    """Sliced 2-Wasserstein distance, RMS over fixed random directions (Bonneel et al. 2015).

    In one dimension W2 couples quantiles. With unequal sample sizes, both sets are evaluated at the
    quantiles of the smaller one.
    """

    class Params(Params):
        """`directions`: number of random directions, the same in every call."""

        directions: int = Field(default=128, ge=1)

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`."""
        import torch

        from harness.core.random import normal

        numbers = torch.arange(self.params.directions)
        axes = normal(0, "slices", 0, numbers, (generated.shape[1],), torch.float64)
        axes = (axes / axes.norm(dim=1, keepdim=True)).T.to(generated.device)
        # features come in the precision of their network
        a, b = (_sorted(features.double() @ axes) for features in (generated, reference))
        n = min(len(generated), len(reference))
        if len(generated) != len(reference):
            at = (torch.arange(n, dtype=a.dtype, device=a.device) + 0.5) / n
            a, b = a.quantile(at, dim=1), b.quantile(at, dim=1)
        return float((a - b).square().mean().sqrt())


def _sorted(values: Tensor) -> Tensor:
    """Sort the columns of [n, k], returned as rows [k, n]; numpy's sort is faster on a CPU."""
    import numpy as np
    import torch

    rows = values.T.contiguous()
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))


@register_metric("energy")
class Energy(Metric):
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| (Székely & Rizzo 2013), unbiased; O(n m)."""

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`."""

        def total(a: Tensor, b: Tensor) -> float:
            import torch

            b = b.double()
            return sum(float(torch.cdist(part.double(), b).sum()) for part in a.split(1024))

        n, m = len(generated), len(reference)
        return (
            2 * total(generated, reference) / (n * m)
            - total(generated, generated) / (n * (n - 1))
            - total(reference, reference) / (m * (m - 1))
        )
