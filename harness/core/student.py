"""The student: a backbone seen through a preconditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.solver import per_sample
from harness.core.tangent import JumpTangent

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.protocols import Coefficients, Network, Strategy


class Student:
    """f(x, t, s) = skip x + out F(x, t, s) [+ shift b]: coefficients in float64, cast last.

    `tells_s`: whether the network is told s; published consistency models are not.
    """

    def __init__(self, backbone: Network, precond: Strategy, *, tells_s: bool = True) -> None:
        self.backbone = backbone
        self.precond = precond
        self.tells_s = tells_s

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """Jump from noise levels t to s <= t, both float64 [B]; x is [B, *shape]."""
        return self._apply(self.precond.coeffs(t, s), x, t, s, labels)

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser x - t d f/ds at s = t, which the DSM loss must use."""
        return self._apply(self.precond.denoiser_coeffs(t), x, t, t, labels)

    def jump_tangent(
        self, x: Tensor, t: Tensor, s: Tensor, dx: Tensor, dt: Tensor, labels: Tensor | None = None
    ) -> JumpTangent:
        """See `StudentInTraining.jump_tangent`."""
        from torch.autograd import forward_ad

        with forward_ad.dual_level():
            moving_x = forward_ad.make_dual(x, dx.to(x.dtype))
            moving_t = forward_ad.make_dual(t, dt.to(t.dtype))
            raw = self._raw(moving_x, moving_t, s, labels).to(x.dtype)
            output, change = forward_ad.unpack_dual(raw)
            pairs = [
                forward_ad.unpack_dual(each)
                for each in self.precond.coeffs(moving_t, s)
                if each is not None
            ]
        scales, slopes = (
            [0 * t if each is None else each for each in side] for side in zip(*pairs, strict=True)
        )
        skip, out, *shift = (per_sample(each, x) for each in scales)
        d_skip, d_out, *d_shift = (per_sample(each, x) for each in slopes)
        value = skip * x + out * output
        # x^ shrinks by t dt/(t^2 + sd^2) of itself, and a grows by as much
        growth = per_sample(t * dt / (t * t + self.precond.sigma_data**2), x)
        carried = skip * (dx.to(x.dtype) - growth * x) + d_out * output.detach()
        changed = (d_skip + skip * growth) * x
        if change is not None:
            changed = changed + out * change.detach()
        if shift:
            offset = self.precond.offset.to(x.dtype)
            value, changed = value + shift[0] * offset, changed + d_shift[0] * offset
        return JumpTangent(value, carried, changed)

    def conditioning(self, t: Tensor) -> Tensor:
        """See `StudentInTraining.conditioning`."""
        return self.backbone.c_noise(t)

    def _apply(
        self, coeffs: Coefficients, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None
    ) -> Tensor:
        raw = self._raw(x, t, s, labels)
        value = per_sample(coeffs.skip, x) * x + per_sample(coeffs.out, x) * raw.to(x.dtype)
        if coeffs.shift is not None:
            value = value + per_sample(coeffs.shift, x) * self.precond.offset.to(x.dtype)
        return value

    def _raw(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        """F as it comes out of the network."""
        return self.backbone(*self._shown(x, t, s), s if self.tells_s else None, labels)

    def _shown(self, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x and the noise level that the network is told, x brought to that level's scale."""
        level = self.precond.told(t, s)
        if level is t:
            return x, t
        return rescaled(x, t, level, self.precond.sigma_data, self.precond.offset), level


def rescaled(
    x: Tensor, t: Tensor, level: Tensor, sigma_data: float, mean: Tensor | None = None
) -> Tensor:
    """x [B, *shape] of noise level t brought to the scale that it would have at another level.

    (x - m) sqrt((level^2 + sd^2)/(t^2 + sd^2)) + m, which is also where the ODE leads if data are
    Gaussian around m; that is 0, or the mean that a strategy writes its jumps around.
    """
    var = sigma_data**2
    scale = per_sample(((level * level + var) / (t * t + var)).sqrt(), x)
    if mean is None:
        return scale * x
    mean = mean.to(x.dtype)
    return mean + scale * (x - mean)
