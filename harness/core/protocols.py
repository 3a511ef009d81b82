"""Protocols of teachers, data, preconditionings, networks, students: core imports none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class StudentLike(Protocol):
    """A student as samplers use it: jumps and the implied denoiser, never the coefficients."""

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s), [B, *shape]; t and s are float64 [B]."""

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser D(x, t), [B, *shape]."""


class Parts(Protocol):
    """Where a calibration keeps sums over part of the samples, to resume from.

    `seconds`: what it took to compute the parts that were read.
    """

    seconds: float

    def read(self, name: str) -> dict[str, NDArray[Any]] | None:
        """The sums of a part, if they were kept."""

    def write(self, name: str, arrays: Mapping[str, Any], seconds: float) -> None:
        """Keep the sums of a part that took `seconds`."""


class NoiseRange(Protocol):
    """Sample shape and noise range, as in `TeacherSpec` and `StudentSpec`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    def sigma_min(self) -> float:
        """The lowest noise level."""

    @property
    def sigma_max(self) -> float:
        """The highest noise level."""


class Denoiser(Protocol):
    """The part of a `Teacher` that a calibration uses."""

    @property
    def spec(self) -> NoiseRange:
        """Shape and noise range."""

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """D(x, sigma), [B, *shape]."""


class CleanData(Protocol):
    """The part of a `Dataset` that a calibration uses."""

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples [B, *shape] float32 and one-hot labels [B, classes] or None."""


class Network(Protocol):
    """The part of a `Backbone` that a student uses."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """F [B, *shape] for x at noise level t, conditioned on the end s of the jump if given."""

    def c_noise(self, t: Tensor) -> Tensor:
        """The noise conditioning c_noise(t) of the network."""

    def parameters(self) -> Iterator[Any]:
        """As `torch.nn.Module`."""

    def to(self, device: Any) -> Any:
        """As `torch.nn.Module`."""


class Coefficients(Protocol):
    """Coefficients of f = skip x + out F [+ shift b], float64 [B] each; `Coeffs` in harness.api."""

    @property
    def skip(self) -> Tensor:
        """Coefficient of x."""

    @property
    def out(self) -> Tensor:
        """Coefficient of the network's output F."""

    @property
    def shift(self) -> Tensor | None:
        """Coefficient of the preconditioning's offset b, or None."""

    def __iter__(self) -> Iterator[Tensor | None]:
        """Iterate over (skip, out, shift)."""


class PreconditioningLike(Protocol):
    """The part of a `Preconditioning` that a student uses."""

    sigma_data: float

    @property
    def offset(self) -> Any:
        """The fixed tensor b [*shape] that shift multiplies, or None."""

    @property
    def basis(self) -> Any:
        """A `Basis` of harness.api, with which coefficients may be [B, bands]; or None."""

    def coeffs(self, t: Tensor, s: Tensor) -> Coefficients:
        """Coefficients of the jump from t to s."""

    def denoiser_coeffs(self, t: Tensor) -> Coefficients:
        """Coefficients of the implied denoiser."""

    def conditioning_sigma(self, t: Tensor, s: Tensor) -> Tensor:
        """The noise level that the network is conditioned on."""

    def to(self, device: Any) -> Any:
        """Move the calibration to a device."""
