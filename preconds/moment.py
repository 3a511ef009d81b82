"""EDM's principle on the teacher's trajectories: network targets of equal variance in every jump.

Karras et al. 2022 (appendix B.6) choose skip such that the network's contribution is smallest, and
out such that its target has unit variance, for jumps to x_0. Here both are measured on the
teacher's trajectories for every s: skip is the regression of x_s on x_t, and out is the RMS R of
the residual over the desired RMS. In the notation of preconds/calibration/trajectories.py,

    a = R / sqrt(phi^2 + (1 - phi^2) (1 - s/t)^2),    e = b - a k:

unit variance in long jumps and, as s -> t, the variance phi^2 of the teacher's own output, which
tangency requires. `tangent: false` is the exact principle, a = R and e = b: unit variance
everywhere, but the implied denoiser is not the teacher's, so that a student initialised from the
teacher does not start close to its ODE.

Better where targets of other preconditionings differ much in size between jumps, since one network
must produce them all. Worse where the teacher's output has a small correlation c with the jump,
because it is used with full weight all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import register_precond
from preconds.calibration.rotation import Rotation, ScalarParams

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import JumpMoments


@register_precond("moment")
class Moment(Rotation):
    """EDM's principle for jumps: network targets of equal variance, measured on trajectories."""

    class Params(ScalarParams):
        """`tangent`: whether targets of short jumps keep the variance of the teacher's output."""

        tangent: bool = True

    def __init__(self, params: Any = None, **context: float) -> None:
        super().__init__(params, **context)
        self.tangent = self.params.tangent

    def table(self, moments: JumpMoments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        if not self.tangent:
            return moments.target_rms, moments.target_slope
        known = moments.network_rms**2
        a = moments.target_rms / (known + (1 - known) * way**2).sqrt()
        return a, moments.target_slope - a * moments.network_slope

    def diagonal(self, moments: JumpMoments) -> tuple[Tensor, Tensor]:
        """See `Rotation.diagonal`."""
        if self.tangent:
            return super().diagonal(moments)
        return moments.network_rms[:, 0], moments.network_slope[:, 0]
