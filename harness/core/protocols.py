"""What core asks of teachers, data, strategies, networks and students, so that it imports none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class StudentLike(Protocol):
    """What samplers ask of a student: jumps and a denoiser, never their coefficients."""

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s), [B, *shape]; t and s are float64 [B]."""

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser D(x, t), [B, *shape]."""


class NoiseRange(Protocol):
    """Where samples begin and end: of a `TeacherSpec` or a `StudentSpec`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    def sigma_min(self) -> float:
        """The lowest noise level."""

    @property
    def sigma_max(self) -> float:
        """The highest noise level."""


class Denoiser(Protocol):
    """What a calibration asks of a `Teacher`."""

    @property
    def spec(self) -> NoiseRange:
        """Shape and noise range."""

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """D(x, sigma), [B, *shape]."""


class CleanData(Protocol):
    """What a calibration asks of a `Dataset`."""

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples [B, *shape] float32 and one-hot labels [B, classes] or None."""


class Network(Protocol):
    """What a student asks of its `Backbone`."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """F [B, *shape] for x at noise t, told where the jump ends."""

    def c_noise(self, t: Tensor) -> Tensor:
        """The number that tells the network a noise level."""

    def parameters(self) -> Iterator[Any]:
        """As `torch.nn.Module`."""

    def to(self, device: Any) -> Any:
        """As `torch.nn.Module`."""


class Coefficients(Protocol):
    """Of f = skip x + out F [+ shift b]: float64 [B] each, `Coeffs` in harness.api."""

    @property
    def skip(self) -> Tensor:
        """Of x."""

    @property
    def out(self) -> Tensor:
        """Of the network's output."""

    @property
    def shift(self) -> Tensor | None:
        """Of the strategy's offset."""

    def __iter__(self) -> Iterator[Tensor | None]:
        """In that order."""


class Strategy(Protocol):
    """What a student asks of its `Preconditioning`."""

    sigma_data: float

    @property
    def offset(self) -> Any:
        """b, [*shape], or None."""

    @property
    def basis(self) -> Any:
        """`Basis` in harness.api, or None: coefficients may then be [B, bands]."""

    def coeffs(self, t: Tensor, s: Tensor) -> Coefficients:
        """Of the jump from t to s."""

    def denoiser_coeffs(self, t: Tensor) -> Coefficients:
        """Of the implied denoiser."""

    def conditioning_sigma(self, t: Tensor, s: Tensor) -> Tensor:
        """The noise level whose c_noise the network gets."""

    def to(self, device: Any) -> Any:
        """Move what was measured to a device."""
