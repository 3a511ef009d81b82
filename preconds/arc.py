"""TrigFlow's arc with a measured skip: the network gives the mean velocity of the jump.

In TrigFlow's coordinates the ODE is motion on a circle, dx^/dtheta = -F^, over the angle Delta from
t to s. `trigflow: {step: arc}` has x^_s = x^_t + Delta F, so that F is the mean velocity of the
jump (as in mean flows, Geng et al. 2025): its error is multiplied by an angle of at most pi/2, and
it has the size of the teacher's own output. But its skip keeps all of x_t, which is right only for
Gaussian data with mean zero. Here the factor of F is kept, and skip is measured on the teacher's
trajectories. In the notation of preconds/calibration/trajectories.py,

    a = Delta / sin(Delta),    e = b - a k,

centred at the teacher's mean. Exact before training for every Gaussian teacher N(m, sd^2), as
TrigFlow's arc is for m = 0; tangent, since a -> 1 and b -> k as s -> t.

Better if trajectories keep part of their direction, at any number of steps. Little worse
otherwise: for b = 0 it is `ctm` with a somewhat larger coefficient of F.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.api import register_precond
from preconds.calibration.rotation import Rotation

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import JumpMoments


@register_precond("arc")
class Arc(Rotation):
    """TrigFlow's arc (F is the mean velocity) with skip measured on the teacher's trajectories."""

    def table(self, moments: JumpMoments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        sigma, sd = self.artifact["sigma"], self.sigma_data
        t, s = sigma[:, None], sigma
        angle = (sd * (t - s) / (t * s + sd**2)).arctan()
        a = 1 / (angle / math.pi).sinc()  # torch.sinc(x) is sin(pi x)/(pi x)
        return a, moments.target_slope - a * moments.network_slope
