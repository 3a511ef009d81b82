"""EDM's principle on real trajectories: the network's target has the same variance in every jump.

Karras et al. 2022 (appendix B.6) choose skip so that the network's share is smallest, and out so
that its target has unit variance, for jumps to x_0. Here both are read off the teacher's own
trajectories, for every s: skip is the regression of x_s on x_t, and out the RMS of what remains, R,
over the RMS wished for. In the notation of preconds/calibration/trajectories.py,

    a = R / sqrt(phi^2 + (1 - phi^2) (1 - s/t)^2),    e = b - a k:

unit variance in long jumps and, as s -> t, the variance phi^2 of the teacher's own output, where
anything else would not be tangent. `tangent: false` is the principle to the letter, a = R and
e = b: unit variance everywhere, at the price of a denoiser of its own and of the teacher's head
start.

Wins where targets would differ much in size from jump to jump, as one network must make them all.
Loses where the teacher's output says little of the jump (c small): it is passed on all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import register_precond
from preconds.calibration.rotation import Rotation, ScalarParams

if TYPE_CHECKING:
    from torch import Tensor

    from preconds.calibration.trajectories import Moments


@register_precond("moment")
class Moment(Rotation):
    """Targets of one variance in every jump: EDM's principle, measured on trajectories."""

    class Params(ScalarParams):
        """`tangent`: whether short jumps keep the teacher's own scale."""

        tangent: bool = True

    def __init__(self, params: Any = None, **context: float) -> None:
        super().__init__(params, **context)
        self.tangent = self.params.tangent

    def table(self, moments: Moments, way: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rotation.table`."""
        if not self.tangent:
            return moments.target_rms, moments.target_slope
        known = moments.network_rms**2
        a = moments.target_rms / (known + (1 - known) * way**2).sqrt()
        return a, moments.target_slope - a * moments.network_slope

    def diagonal(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """See `Rotation.diagonal`."""
        if self.tangent:
            return super().diagonal(moments)
        return moments.network_rms[:, 0], moments.network_slope[:, 0]
