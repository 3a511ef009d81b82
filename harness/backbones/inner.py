"""Inner maps: how a trained network's raw output makes a denoiser, D = skip x + out raw.

| map   | skip              | out                   | c_in             | c_noise               |
|-------|-------------------|-----------------------|------------------|-----------------------|
| EDM   | sd^2/(s^2 + sd^2) | s sd / sqrt(s^2+sd^2) | 1/sqrt(s^2+sd^2) | log(s) / 4, 250 log(s) |
| VP    | 1                 | -s                    | 1/sqrt(s^2+1)    | (M - 1) t(s)          |
| VE    | 1                 | s                     | 1                | log(s / 2)            |
| iDDPM | 1                 | -s                    | 1/sqrt(s^2+1)    | M - 1 - nearest level |

Source: Karras et al. 2022 (arXiv:2206.00364), table 1. Students use EDM's F = (D - c_skip x)/c_out
for all teachers. The difference skip - c_skip is computed in closed form (1 - c_skip =
s^2/(s^2 + sd^2)), because in floating point it would cancel at low noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.api import edm_inner
from harness.backbones.levels import iddpm_levels, vp_sigma


class InnerMap(nn.Module):
    """The four coefficients as functions of a float64 noise level, and the range they hold on.

    `sigma_data` is the scale of the data, in which F is expressed; `outputs` how many times as
    many channels the network has as the image (only the first part is used).
    """

    outputs = 1

    def __init__(self, sigma_min: float, sigma_max: float, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def denoiser(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(skip, out) of D = skip x + out raw."""
        raise NotImplementedError

    def c_in(self, t: Tensor) -> Tensor:
        """What scales the input of the network."""
        raise NotImplementedError

    def c_noise(self, t: Tensor) -> Tensor:
        """The number that tells the network how noisy its input is."""
        raise NotImplementedError

    def edm_form(self, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """(a, b) of F = a x + b raw, F being EDM's raw output; None if F = raw."""
        raise NotImplementedError

    def round_sigma(self, t: Tensor) -> Tensor:
        """The nearest noise level the network was trained at."""
        return t


class EDM(InnerMap):
    """Karras et al. 2022; every published `edm-*` file, vp and ve alike.

    OpenAI's networks of the same form (Song et al. 2023) have timesteps for c_noise, 1000 times as
    large: `noise_scale` 250 instead of 1/4.
    """

    def __init__(
        self,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        noise_scale: float = 0.25,
    ) -> None:
        super().__init__(sigma_min, sigma_max, sigma_data)
        self.noise_scale = noise_scale

    def denoiser(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMap.denoiser`."""
        return edm_inner(t, self.sigma_data)

    def c_in(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_in`."""
        return (t.square() + self.sigma_data**2).rsqrt()

    def c_noise(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_noise`."""
        return t.log() * self.noise_scale

    def edm_form(self, t: Tensor) -> None:
        """See `InnerMap.edm_form`."""
        return None


class _NoisePredictor(InnerMap):
    """D = x + sign s raw: VP and iDDPM predict the noise, VE its negative."""

    sign = -1

    def denoiser(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMap.denoiser`."""
        return torch.ones_like(t), self.sign * t

    def c_in(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_in`."""
        return (t.square() + 1).rsqrt()

    def edm_form(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMap.edm_form`."""
        radius = (t.square() + self.sigma_data**2).sqrt()
        return t / (self.sigma_data * radius), self.sign * radius / self.sigma_data


class VP(_NoisePredictor):
    """Variance preserving (Song et al. 2021): c_noise is the time of the linear-beta process."""

    def __init__(
        self,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ) -> None:
        super().__init__(*(vp_sigma(t, beta_d, beta_min) for t in (epsilon_t, 1.0)))
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M

    def c_noise(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_noise`."""
        growth = torch.log1p(t.square())
        root = (self.beta_min**2 + 2 * self.beta_d * growth).sqrt()
        # (root - beta_min) / beta_d, without the difference of two nearly equal numbers
        return (self.M - 1) * 2 * growth / (root + self.beta_min)


class VE(_NoisePredictor):
    """Variance exploding (Song et al. 2021)."""

    sign = 1

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__(sigma_min, sigma_max)

    def c_in(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_in`."""
        return torch.ones_like(t)

    def c_noise(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_noise`."""
        return (t / 2).log()


class IDDPM(_NoisePredictor):
    """Improved DDPM (Nichol & Dhariwal 2021): M discrete levels `u`, which files carry.

    The network also predicts a variance, in the second half of its output, which nobody reads.
    """

    outputs = 2

    def __init__(self, C_1: float = 0.001, C_2: float = 0.008, M: int = 1000) -> None:
        levels = iddpm_levels(C_1, C_2, M)
        super().__init__(levels[M - 1], levels[0])
        self.M = M
        self.register_buffer("u", torch.tensor(levels, dtype=torch.float32))

    def c_noise(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_noise`."""
        return (self.M - 1 - self._nearest(t)).to(t.dtype)

    def round_sigma(self, t: Tensor) -> Tensor:
        """See `InnerMap.round_sigma`."""
        return self.u[self._nearest(t)].to(t.dtype)

    def _nearest(self, t: Tensor) -> Tensor:
        return (t.detach()[..., None] - self.u.to(t.dtype)).abs().argmin(-1)
