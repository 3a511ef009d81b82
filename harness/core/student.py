"""The student: a backbone combined with a preconditioning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.core.solver import per_sample
from harness.core.tangent import JumpTangent

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.protocols import Network, PreconditioningLike

#: a coefficient, [B] or [B, bands], and what it multiplies, [B, *shape] or [*shape]
Term = tuple["Tensor | None", "Tensor | None"]


class Student:
    """f(x, t, s) = skip x + out F(x, t, s) [+ shift b]: coefficients in float64, cast last.

    Coefficients per band multiply the coordinates in the preconditioning's basis.

    `tells_s`: whether the network is conditioned on s; published consistency models are not.
    """

    def __init__(
        self, backbone: Network, precond: PreconditioningLike, *, tells_s: bool = True
    ) -> None:
        self.backbone = backbone
        self.precond = precond
        self.tells_s = tells_s

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """Jump from noise levels t to s <= t, both float64 [B]; x is [B, *shape]."""
        raw = self._raw(x, t, s, labels).to(x.dtype)
        parts = (x, raw, self.precond.offset)
        return self._sum(x, zip(self.precond.coeffs(t, s), parts, strict=True))

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser x - t d f/ds at s = t, which the DSM loss must use."""
        raw = self._raw(x, t, t, labels).to(x.dtype)
        parts = (x, raw, self.precond.offset)
        return self._sum(x, zip(self.precond.denoiser_coeffs(t), parts, strict=True))

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
                (None, None) if each is None else forward_ad.unpack_dual(each)
                for each in self.precond.coeffs(moving_t, s)
            ]
        (skip, d_skip), (out, d_out), (shift, d_shift) = pairs
        # relative change: x^ shrinks by t dt/(t^2 + sd^2), and a grows by as much
        growth = per_sample(t * dt / (t * t + self.precond.sigma_data**2), x)
        offset = self.precond.offset
        value = [(skip, x), (out, output), (shift, offset)]
        carried = [(skip, dx.to(x.dtype) - growth * x), (d_out, output.detach())]
        changed = [(d_skip, x), (skip, growth * x), (d_shift, offset)]
        if change is not None:
            changed.append((out, change.detach()))
        return JumpTangent(*(self._sum(x, terms) for terms in (value, carried, changed)))

    @property
    def basis(self) -> Any:
        """See `StudentInTraining.basis`."""
        return self.precond.basis

    def conditioning(self, t: Tensor) -> Tensor:
        """See `StudentInTraining.conditioning`."""
        return self.backbone.c_noise(t)

    def _sum(self, x: Tensor, terms: Iterable[Term]) -> Tensor:
        """Sum of coefficient times tensor over `terms`, [B, *shape] in the dtype of x."""
        terms = [(scale, each) for scale, each in terms if scale is not None and each is not None]
        if all(scale.dim() <= 1 for scale, _ in terms):
            first, *rest = (per_sample(scale, x) * each.to(x.dtype) for scale, each in terms)
            return sum(rest, first)
        basis, total = self.precond.basis, 0.0
        for scale, each in terms:
            wide = scale if scale.dim() > 1 else scale[..., None].expand(*scale.shape, basis.count)
            each = each.to(x.dtype)
            z = basis.coordinates(each if each.dim() == x.dim() else each[None])
            total = total + basis.spread(wide) * z
        return basis.samples(total).to(x.dtype)

    def _raw(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        """The raw network output F."""
        return self.backbone(*self._shown(x, t, s), s if self.tells_s else None, labels)

    def _shown(self, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x rescaled to the conditioning sigma, and that sigma [B]."""
        level = self.precond.conditioning_sigma(t, s)
        if level is t:
            return x, t
        return rescaled(x, t, level, self.precond.sigma_data, self.precond.offset), level


def rescaled(
    x: Tensor, t: Tensor, level: Tensor, sigma_data: float, mean: Tensor | None = None
) -> Tensor:
    """x [B, *shape] at noise level t rescaled to the magnitude it has at noise level `level`.

    (x - m) sqrt((level^2 + sd^2)/(t^2 + sd^2)) + m, the solution of the ODE for Gaussian data with
    mean m; m is 0, or the `offset` of a preconditioning.
    """
    var = sigma_data**2
    scale = per_sample(((level * level + var) / (t * t + var)).sqrt(), x)
    if mean is None:
        return scale * x
    mean = mean.to(x.dtype)
    return mean + scale * (x - mean)
