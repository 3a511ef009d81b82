"""The network gives the mean velocity of the jump; skip carries what is linear, as measured.

In TrigFlow's coordinates the ODE is motion on a circle, dx^/dtheta = -F^, over the angle Delta from
t to s. `trigflow: {step: arc}` writes x^_s = x^_t + Delta F, so that F is the mean velocity along
the way (as in mean flows, Geng et al. 2025): its error is multiplied by an angle, never by more
than pi/2, and it is of size 1 where the teacher's own output is. But its skip carries all of x_t,
which is right for Gaussian data around zero alone. Here the velocity's scale is kept and the skip
is what trajectories show. In the notation of preconds/calibration/trajectories.py,

    a = Delta / sin(Delta),    e = b - a k,

around the teacher's mean. Exact before training for every Gaussian teacher N(m, sd^2), as the arc
is for m = 0; tangent, since a -> 1 and b -> k as s -> t.

Wins where trajectories keep part of their direction, at any number of steps. Loses little
elsewhere: where b = 0 it is `ctm` with a somewhat larger voice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.api import register_precond
from preconds.calibration.rotation import Rotation

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import Moments


@register_precond("arc")
class Arc(Rotation):
    """TrigFlow's arc, F a mean velocity, with the skip that the teacher's trajectories show."""

    def table(self, moments: Moments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        sigma, sd = self.artifact["sigma"], self.sigma_data
        t, s = sigma[:, None], sigma
        angle = (sd * (t - s) / (t * s + sd**2)).arctan()
        a = 1 / (angle / math.pi).sinc()  # torch.sinc(x) is sin(pi x)/(pi x)
        return a, moments.target_slope - a * moments.network_slope
