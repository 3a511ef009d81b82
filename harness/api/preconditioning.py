"""`Preconditioning`, the base class of preconditionings: the coefficients of a jump from t to s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.api.coeffs import Coeffs
from harness.api.plugin import Plugin
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api.basis import Basis
    from harness.core.probe import Probe


def edm_inner(t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of EDM's denoiser D = c_skip x + c_out F (Karras et al. 2022, table 1)."""
    total = t * t + sigma_data**2
    return sigma_data**2 / total, t * sigma_data / total.sqrt()


def carried_inner(t: Tensor, s: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of EDM's denoiser at level s, written on x_t rescaled to level s.

    D(y, s) = c_skip x_t + c_out F with y = x_t sqrt((s^2 + sd^2)/(t^2 + sd^2)), the solution of the
    ODE at s if data are Gaussian. For preconditionings with `conditioning_sigma` s, whose network
    input is c_in(s) y.
    """
    c_skip, c_out = edm_inner(s, sigma_data)
    var = sigma_data**2
    return c_skip * ((s * s + var) / (t * t + var)).sqrt(), c_out


class Preconditioning(Plugin):
    """A jump along the teacher's ODE, written on the raw network output F:

        f(x, t, s) = skip(t, s) x + out(t, s) F(c_in(t) x, c_noise(t), c_noise(s)) [+ shift(t, s) b]

    with the boundary condition f(x, t, t) = x. Subclasses define `coeffs`; those that are
    calibrated on the teacher also define `calibrate` and read its result from `self.artifact`.
    """

    #: whether d f/ds at s = t is the teacher's (x - D)/t when F is the teacher's own raw output.
    tangent: ClassVar[bool] = True
    #: whether `coeffs` are defined for s > t as well (jumps towards noise)
    upward: ClassVar[bool] = False
    #: whether `basis`, after calibration, has bands and their standard deviations
    banded: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "told" in vars(cls):
            raise TypeError(f"{cls.__name__}.told is called conditioning_sigma(self, t, s) now")

    def __init__(
        self,
        params: Any = None,
        *,
        sigma_data: float,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__(params)
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < sigma_data < math.inf:
            raise ConfigError(
                f"precond {self.name!r}: need 0 < sigma_min < sigma_max and sigma_data > 0,"
                f" got {sigma_min}, {sigma_max}, {sigma_data}"
            )
        self.sigma_data = float(sigma_data)
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self.artifact: dict[str, Tensor] = {}

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """Return (skip, out[, shift]), float64, for t and s that broadcast, sigma_min <= s <= t."""
        raise self.lacks("coeffs(self, t, s)")

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """Coefficients of the implied denoiser D(x, t) = x - t d f/ds at s = t.

        The default differentiates `coeffs`; a preconditioning with a closed form overrides it.
        """
        import torch
        from torch.autograd import forward_ad

        if self.basis is not None:  # all bands at once
            with forward_ad.dual_level():
                moving = forward_ad.make_dual(t, torch.ones_like(t))  # type: ignore[no-untyped-call]
                near = self.coeffs(t, moving)

                def fall(value: Tensor) -> Tensor:
                    tangent = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
                    return torch.zeros_like(value) if tangent is None else -t[..., None] * tangent

                shift = None if near.shift is None else fall(near.shift)
                return Coeffs(1 + fall(near.skip), fall(near.out), shift)
        with torch.enable_grad():
            t = t.detach()
            s = t.clone().requires_grad_()

            def slope(value: Tensor | None) -> Tensor:
                if value is None or not value.requires_grad:
                    return torch.zeros_like(t)
                return torch.autograd.grad(value.sum(), s, retain_graph=True)[0]

            skip, out, shift = self.coeffs(t, s)
            return Coeffs(
                1 - t * slope(skip),
                -t * slope(out),
                None if shift is None else -t * slope(shift),
            )

    def conditioning_sigma(self, t: Tensor, s: Tensor) -> Tensor:
        """The noise level sigma that the network is conditioned on, t by default.

        With that sigma the student computes F(c_in(t) x, c_noise(sigma), c_noise(s)).
        """
        return t

    @property
    def offset(self) -> Tensor | None:
        """The fixed tensor b [*shape] that `shift` multiplies; None if there is no shift."""
        return self.artifact.get("offset")

    @property
    def basis(self) -> Basis | None:
        """The basis whose bands have coefficients of their own; None: coefficients are scalars.

        With a basis f = U^T [skip U x + out U F + shift U b], each coordinate of U x with the
        coefficients of its band.
        """
        return None

    @classmethod
    def needs_calibration(cls) -> bool:
        """Whether it must be calibrated on the teacher before `coeffs` can be called."""
        return cls.calibrate is not Preconditioning.calibrate

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """Measure the teacher; return the tensors that `coeffs` reads from `self.artifact`.

        Called under `no_grad`. Sums over samples go through `probe.add_up`, which divides them
        over processes. The result is stored under the key `measured` and shared between seeds.
        """
        raise self.lacks("calibrate(self, probe)")

    def calibration_evaluations(self) -> float | None:
        """Evaluations of the teacher, of one sample each, that `calibrate` takes at most.

        `plan` forecasts from it. None by default: unknown.
        """
        return None

    @property
    def measured(self) -> dict[str, Any]:
        """Key of the stored calibration, which all with equal `measured` share."""
        return {
            "precond": self.name,
            "revision": self.revision,
            "params": self.params.model_dump(mode="json"),
        }

    def shown(self) -> dict[str, Tensor]:
        """Calibrated curves for the report: `sigma` [N] and further tensors [N]; empty by default.

        The exponential of a curve `log_...` is drawn on a log axis; its points are crossed out
        where the curve `flat` is not 0.
        """
        return {}

    def load(self, artifact: Mapping[str, Tensor]) -> Self:
        """Use a calibration made earlier; returns self."""
        self.artifact = dict(artifact)
        return self

    def to(self, device: Any) -> Self:
        """Move the calibration to a device; returns self."""
        return self.load({key: value.to(device) for key, value in self.artifact.items()})


class DenoiserForm(Preconditioning):
    """f = beta x + alpha D_theta, written on the denoiser D_theta = c_skip x + c_out F.

    skip = beta + alpha c_skip, out = alpha c_out. Subclasses define `outer`. With an `offset` m in
    the artifact the jump is centred, f = m + beta (x - m) + alpha (D_theta - m), which adds the
    constant (1 - alpha - beta) m.
    """

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, beta), float64, for noise levels that broadcast."""
        raise self.lacks("outer(self, t, s)")

    def inner(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out) of D_theta = c_skip x + c_out F; EDM's at t by default."""
        return edm_inner(t, self.sigma_data)

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        alpha, beta = self.outer(t, s)
        c_skip, c_out = self.inner(t, s)
        shift = None if self.offset is None else 1 - alpha - beta
        return Coeffs(beta + alpha * c_skip, alpha * c_out, shift)
