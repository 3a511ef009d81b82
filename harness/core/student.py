"""The student: a backbone seen through a preconditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.solver import per_sample

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Coeffs, Preconditioning
    from harness.backbones.base import Backbone


class Student:
    """f(x, t, s) = skip x + out F(x, t, s) [+ shift b]: coefficients in float64, cast last."""

    def __init__(self, backbone: Backbone, precond: Preconditioning) -> None:
        self.backbone = backbone
        self.precond = precond

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """Jump from noise levels t to s <= t, both float64 [B]; x is [B, *shape]."""
        return self._apply(self.precond.coeffs(t, s), x, t, s, labels)

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser x - t d f/ds at s = t, which the DSM loss must use."""
        return self._apply(self.precond.denoiser_coeffs(t), x, t, t, labels)

    def _apply(
        self, coeffs: Coeffs, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None
    ) -> Tensor:
        raw = self.backbone(x, t, s, labels)
        value = per_sample(coeffs.skip, x) * x + per_sample(coeffs.out, x) * raw.to(x.dtype)
        if coeffs.shift is not None:
            value = value + per_sample(coeffs.shift, x) * self.precond.offset.to(x.dtype)
        return value
