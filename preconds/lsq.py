"""Least-squares coefficients: the jump with the smallest error before training.

For every (t, s) the alpha and beta that minimise E||x_s - beta x_t - alpha D(x_t, t)||^2 over the
teacher's own trajectories: no preconditioning f = beta x + alpha D_theta is better before training.
In the notation of preconds/calibration/trajectories.py,

    a = c R phi / (phi^2 + ridge (1 - s/t)^2),    e = b - a k.

`ridge` is the variance of the network's error in F, which a multiplies. Without it, a is of order
1/phi, 1e6 at high noise for an exact teacher; for a network, phi there is mostly error. The error
is zero at s = t, where the student equals its teacher, and is assumed to grow with the relative
length 1 - s/t of the jump, which keeps the preconditioning tangent.

Better for small budgets or many steps. Worse on long jumps from levels where phi^2 is far below
ridge: a is near zero, so that the network's target is of size R / a, which it never learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import register_precond
from preconds.calibration.rotation import Rotation, ScalarParams

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import JumpMoments


@register_precond("lsq")
class LeastSquares(Rotation):
    """Least squares: regression of x_s on x_t and D(x_t, t) over the teacher's trajectories."""

    class Params(ScalarParams):
        """`ridge`: variance of the network's error in F, in units of F's own (about 1)."""

        ridge: float = Field(default=0.01, ge=0)

    def table(self, moments: JumpMoments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        a = moments.least_squares(self.params.ridge * way**2)
        return a, moments.target_slope - a * moments.network_slope
