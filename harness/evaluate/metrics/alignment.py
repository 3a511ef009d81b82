"""Trajectory alignment: distance of a student's samples to the teacher's ODE solution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("alignment")
class Alignment(Metric):
    """Trajectory alignment: RMS of student(z) - ODE(z) for the same noise z; needs no data."""

    needs = "trajectory"

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`; row k of both comes from the same noise."""
        return float((generated - reference).square().mean().sqrt())
