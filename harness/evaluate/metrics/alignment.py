"""Trajectory alignment: is the student where the teacher's ODE ends, from the same noise?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("alignment")
class Alignment(Metric):
    """RMS over samples and coordinates of student(z) - ODE(z); needs no data and no features."""

    needs = "trajectory"

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`; row k of both came from the same noise."""
        return float((generated - reference).square().mean().sqrt())
