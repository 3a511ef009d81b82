"""A Gaussian mixture: denoiser, score and probability-flow ODE in closed form.

D(x, t) = sum_k w_k(x) [mu_k + v_k / (v_k + t^2) (x - mu_k)], w_k the posterior probability of
component k under N(mu_k, v_k + t^2) (diagonal v_k). All quantities of the project are known exactly
for it, so that the test suite and the quickstart use it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from harness.api import (
    ConfigError,
    Dataset,
    DatasetSpec,
    Params,
    Teacher,
    TeacherSpec,
    content_digest,
    register_teacher,
)

if TYPE_CHECKING:
    from torch import Tensor


class MixtureParams(Params):
    """Either a preset (ring or random) or explicit `means`, with `stds` and `weights`.

    `stds` has one number per component, or one list of d numbers; `weights` need not sum to 1.
    `random` places `modes` means on a random `intrinsic`-dimensional subspace, at distance
    `radius` from zero.
    """

    preset: Literal["ring", "random"] = "ring"
    modes: int = Field(default=8, ge=1)
    dim: int = Field(default=2, ge=1)
    radius: float = Field(default=0.7, gt=0)
    std: float = Field(default=0.06, gt=0)
    intrinsic: int | None = Field(default=None, ge=1)
    seed: int = 0
    means: list[list[float]] | None = None
    stds: list[float] | list[list[float]] | None = None
    weights: list[float] | None = None
    centre: list[float] | None = None
    sigma_data: float | None = Field(default=None, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> MixtureParams:
        means = self.means
        if means is not None:
            if not means or len({len(mean) for mean in means}) != 1 or not means[0]:
                raise ValueError("means: give one or more lists of the same length")
            for key in ("stds", "weights"):
                value = getattr(self, key)
                if value is not None and len(value) != len(means):
                    raise ValueError(f"{key}: {len(value)} entries for {len(means)} means")
            if self.stds is None:
                raise ValueError("stds: needed beside means")
        elif self.stds is not None or self.weights is not None:
            raise ValueError("stds and weights go with means")
        flat = [v for std in self.stds or [] for v in (std if isinstance(std, list) else [std])]
        if any(v <= 0 for v in flat) or any(w <= 0 for w in self.weights or []):
            raise ValueError("stds and weights must be positive")
        if self.preset == "ring" and means is None and self.dim != 2:
            raise ValueError("preset ring lives in dim 2; use preset random for other dimensions")
        return self


@register_teacher("gmm")
class GaussianMixture(Teacher):
    """A Gaussian mixture in closed form; by default a ring of 8 modes in the plane."""

    Params = MixtureParams

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        means, stds, weights = self._components()
        self.means, self.stds, self.weights = means, stds, weights
        dim = len(means[0])
        if any(len(std) != dim for std in stds):
            raise ConfigError(f"teacher 'gmm': stds: each list needs {dim} numbers")
        mean = [sum(w * m[i] for w, m in zip(weights, means, strict=True)) for i in range(dim)]
        variance = sum(
            w * sum(v**2 + (m_i - c) ** 2 for v, m_i, c in zip(std, m, mean, strict=True)) / dim
            for w, m, std in zip(weights, means, stds, strict=True)
        )
        self.mean = mean
        p = self.params
        self.spec = TeacherSpec(
            shape=(dim,),
            sigma_data=p.sigma_data or math.sqrt(variance),
            digest=content_digest([means, stds, weights, p.sigma_data, p.sigma_min, p.sigma_max]),
            sigma_min=p.sigma_min,
            sigma_max=p.sigma_max,
        )
        self._tensors: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`; exact, in the dtype of x."""
        import torch

        means, variances, log_weights = self._constants(x)
        t2 = torch.as_tensor(sigma, device=x.device).to(x.dtype) ** 2
        total = variances + (t2.reshape(-1, 1, 1))  # [1 or B, K, d]
        difference = x[:, None, :] - means  # [B, K, d]
        logits = log_weights - 0.5 * (difference**2 / total + total.log()).sum(-1)
        weights = logits.softmax(-1)[..., None]
        return (weights * (means + variances / total * difference)).sum(1)

    def dataset(self) -> Dataset:
        """Independent draws from the mixture, without limit."""
        return MixtureData(self)

    def _components(self) -> tuple[list[list[float]], list[list[float]], list[float]]:
        p = self.params
        if p.means is not None:
            means = [list(map(float, mean)) for mean in p.means]
        elif p.preset == "ring":
            turn = 2 * math.pi / p.modes
            means = [
                [p.radius * math.cos(k * turn), p.radius * math.sin(k * turn)]
                for k in range(p.modes)
            ]
        else:
            means = self._random_means()
        dim = len(means[0])
        if p.centre is not None:
            if len(p.centre) != dim:
                raise ConfigError(f"teacher 'gmm': centre: needs {dim} numbers")
            means = [[m + c for m, c in zip(mean, p.centre, strict=True)] for mean in means]
        stds: list[Any] = list(p.stds) if p.stds is not None else [p.std] * len(means)
        full = [[float(v)] * dim if isinstance(v, int | float) else list(v) for v in stds]
        weights = p.weights or [1.0] * len(means)
        return means, full, [w / sum(weights) for w in weights]

    def _random_means(self) -> list[list[float]]:
        import numpy as np

        p = self.params
        intrinsic = min(p.intrinsic or p.dim, p.dim)
        rng = np.random.default_rng(p.seed)
        basis, _ = np.linalg.qr(rng.standard_normal((p.dim, intrinsic)))
        inside = rng.standard_normal((p.modes, intrinsic))
        inside *= p.radius / np.linalg.norm(inside, axis=1, keepdims=True)
        return [[float(v) for v in row] for row in inside @ basis.T]

    def _constants(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        key = (x.dtype, x.device)
        if key not in self._tensors:
            make = {"dtype": x.dtype, "device": x.device}
            self._tensors[key] = (
                torch.tensor(self.means, **make),
                torch.tensor(self.stds, **make) ** 2,
                torch.tensor(self.weights, **make).log(),
            )
        return self._tensors[key]


class MixtureData(Dataset):
    """Samples of a mixture, drawn on demand as a function of (seed, purpose, index)."""

    name = "teacher"

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.spec = DatasetSpec(
            shape=mixture.spec.shape, digest=content_digest(["gmm", mixture.spec.digest])
        )

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, None]:
        """See `Dataset.draw`."""
        import torch

        from harness.core.random import normal, uniform

        means, variances, log_weights = self.mixture._constants(sample_index.new_zeros(1).double())
        u = uniform(seed, f"{purpose}: component", 0, sample_index)
        which = torch.searchsorted(log_weights.exp().cumsum(0)[:-1].contiguous(), u)[:, 0]
        eps = normal(seed, f"{purpose}: sample", 0, sample_index, self.spec.shape, torch.float64)
        return (means[which] + variances[which].sqrt() * eps).float(), None
