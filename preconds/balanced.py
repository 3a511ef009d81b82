"""Least squares with bounded targets: small error before training, little amplification.

A jump should meet three requirements, of which other preconditionings give up one. In the notation
of preconds/calibration/trajectories.py, with the network's target F* = (Y - e x^)/a and its error
nu:

- the error before training, RMS(Y - e x^ - a F^), is smallest at a = c R/phi, e = b - a k (`lsq`);
- the error nu is amplified to a nu, so that the best a is c R phi/(phi^2 + nu^2);
- RMS(F*) = R/a should be about 1, since one network must produce all targets (`moment`); at high
  noise, where phi is nearly 0, the a above makes it thousands.

Skip always contains the part of x_s that is linear in x_t, which `ctm` leaves to the network. The
first two requirements are one least-squares problem, the third bounds its solution:

    a = max( c R phi / (phi^2 + ridge (1 - s/t)^2),  R / reach ),    e = b - a k,

which is tangent: as s -> t the first tends to 1 and the second to phi/reach.

Better at one to three steps and small budgets if b is large: few dimensions, or data whose coarse
structure is determined by the noise. Little effect if b is small (many dimensions, fine detail),
and worse at many steps than preconditionings that spend no capacity on long jumps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import register_precond
from preconds.calibration.rotation import Rotation, ScalarParams

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import JumpMoments


@register_precond("balanced")
class Balanced(Rotation):
    """Least squares (`lsq`) with a bound on the size of the network's targets."""

    class Params(ScalarParams):
        """`ridge`: variance of the network's error in F; `reach`: upper bound of target RMS."""

        ridge: float = Field(default=0.01, ge=0)
        reach: float = Field(default=1.0, gt=0)

    def table(self, moments: JumpMoments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        a = moments.least_squares(self.params.ridge * way**2)
        a = a.maximum(moments.target_rms / self.params.reach)
        return a, moments.target_slope - a * moments.network_slope
