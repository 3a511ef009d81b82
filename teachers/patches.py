"""Natural-image patches in closed form: Gaussians with full covariances, fitted to photographs.

D(x, t) = sum_k w_k(x) [m_k + U_k diag(l_k / (l_k + t^2)) U_k^T (x - m_k)] with the eigenvectors U_k
and eigenvalues l_k of component k's covariance and w_k its posterior probability under
N(m_k, U_k diag(l_k + t^2) U_k^T). Such mixtures are good models of small patches (Zoran and Weiss
2011, "From learning models of natural image patches to whole image restoration").
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from harness.api import (
    Dataset,
    DatasetSpec,
    Params,
    Teacher,
    TeacherSpec,
    content_digest,
    create,
    register_teacher,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from teachers.mixture.fit import Fit

#: numbers of a table [components, rows, d] held at once: 64 MiB in float64
MOST_ENTRIES = 2**23
#: weights of RGB in the luma of `channels: 1` (ITU-R BT.601)
LUMA = (0.299, 0.587, 0.114)


class PatchesParams(Params):
    """`side` and `channels` (3, or 1 for grey) of a patch, and number of Gaussian `components`.

    `form`: samples are vectors [d] or images [channels, side, side], d = channels side^2. The
    Gaussians are fitted to `crops` patches drawn with `seed` from scikit-learn's two photographs,
    and `floor` is added to their variances. The fit with default parameters is shipped; others are
    made on first use in every process: 2 s for 5x5x3 and 8 components, a minute for 8x8x3 and 16.
    """

    form: Literal["vector", "image"] = "vector"
    side: int = Field(default=8, ge=2, le=12)
    channels: Literal[1, 3] = 3
    components: int = Field(default=16, ge=1, le=64)
    crops: int = Field(default=10_000, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0)
    floor: float = Field(default=1e-4, gt=0, le=1)
    sigma_data: float | None = Field(default=None, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)

    @model_validator(mode="after")
    def _enough(self) -> PatchesParams:
        if self.crops < 10 * self.components:
            raise ValueError(f"crops: {self.components} components need {10 * self.components}")
        return self

    @property
    def dim(self) -> int:
        """The number of coordinates, d."""
        return self.channels * self.side**2


class Constants(NamedTuple):
    """Log weights [K], means [K, d], eigenvalues [K, d], eigenvectors [K, d, d] as columns."""

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    vectors: Tensor


@register_teacher("patches")
class Patches(Teacher):
    """Patches of photographs as a mixture of Gaussians, in closed form; 8x8 RGB by default."""

    Params = PatchesParams

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        p = self.params
        cut = {"set": "sklearn", "side": p.side, "scales": [1], "hflip": False}
        self._photos: Any = create("dataset", "photos", cut)
        self.spec = TeacherSpec(
            shape=(p.dim,) if p.form == "vector" else (p.channels, p.side, p.side),
            sigma_data=p.sigma_data or float((self.crops.var(0).mean() + p.floor) ** 0.5),
            digest=content_digest(["patches", self._photos.spec.digest, p.model_dump()], length=64),
            sigma_min=p.sigma_min,
            sigma_max=p.sigma_max,
        )
        self._constants: dict[Any, Constants] = {}

    @functools.cached_property
    def crops(self) -> np.ndarray:
        """The patches to which the Gaussians are fitted, float64 [crops, d] in [-1, 1]."""
        import numpy as np

        p = self.params
        pixels = self._photos.cut(np.random.default_rng(p.seed).random((p.crops, 4)))
        if p.channels == 1:
            pixels = np.tensordot(LUMA, pixels, (0, 1))
        return pixels.reshape(p.crops, -1) / 127.5 - 1

    @functools.cached_property
    def fit(self) -> Fit:
        """The mixture: the shipped one for default parameters, else fitted on first use."""
        from teachers.mixture.fit import shipped

        aside = {"form", "sigma_data", "sigma_min", "sigma_max"}
        chosen = self.params.model_dump(exclude=aside)
        is_default = chosen == PatchesParams().model_dump(exclude=aside)
        return shipped() if is_default else self.fitted_here()

    def fitted_here(self) -> Fit:
        """Fit the mixture to `crops`."""
        from teachers.mixture.fit import fit

        p = self.params
        return fit(self.crops, p.components, p.floor, p.seed)

    def constants(self, dtype: Any, device: Any) -> Constants:
        """Weights, means and eigendecompositions for `denoise`, computed once in float64."""
        import numpy as np
        import torch

        if (dtype, device) not in self._constants:
            variances, vectors = np.linalg.eigh(self.fit.covariances)
            variances = np.maximum(variances, self.params.floor)  # what rounding took away
            made = (np.log(self.fit.weights), self.fit.means, variances, vectors)
            self._constants[dtype, device] = Constants(
                *(torch.tensor(value, dtype=dtype, device=device) for value in made)
            )
        return self._constants[dtype, device]

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`; exact, in the dtype of x, in blocks of rows to save memory."""
        import torch

        constants = self.constants(torch.promote_types(x.dtype, torch.float32), x.device)
        flat = x.flatten(1).to(constants.means.dtype)
        t2 = torch.as_tensor(sigma, device=x.device).to(flat.dtype).square().expand(len(x))
        rows = max(1, MOST_ENTRIES // constants.means.numel())
        parts = [
            _denoise(constants, some, level)
            for some, level in zip(flat.split(rows), t2.split(rows), strict=True)
        ]
        return torch.cat(parts).reshape(x.shape).to(x.dtype)

    def dataset(self) -> Dataset:
        """Draws from the mixture without limit, not crops of photographs: the teacher is exact."""
        return PatchesData(self)


def _denoise(constants: Constants, x: Tensor, t2: Tensor) -> Tensor:
    """D of rows x [B, d] at squared noise levels t2 [B]; the largest tables are [K, B, d]."""
    log_weights, means, variances, vectors = constants
    z = (x - means[:, None]) @ vectors  # [K, B, d]
    total = variances[:, None] + t2[:, None]
    logits = log_weights[:, None] - 0.5 * (z * z / total + total.log()).sum(-1)
    weights = logits.softmax(0)  # [K, B]
    shrunk = weights[..., None] * (variances[:, None] / total) * z
    return weights.T @ means + (shrunk @ vectors.mT).sum(0)


class PatchesData(Dataset):
    """Samples of the mixture, drawn on demand; values may lie slightly outside [-1, 1]."""

    name = "teacher"

    def __init__(self, patches: Patches) -> None:
        super().__init__()
        self.patches = patches
        spec = patches.spec
        self.spec = DatasetSpec(shape=spec.shape, digest=content_digest(["patches", spec.digest]))

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, None]:
        """See `Dataset.draw`; m + U diag(l)^(1/2) U^T eps, independent of the choice of U."""
        import torch

        from harness.core.random import normal, uniform

        log_weights, means, variances, vectors = self.patches.constants(
            torch.float64, sample_index.device
        )
        u = uniform(seed, f"{purpose}: component", 0, sample_index)
        which = torch.searchsorted(log_weights.exp().cumsum(0)[:-1].contiguous(), u)[:, 0]
        eps = normal(seed, f"{purpose}: sample", 0, sample_index, (means.shape[1],), torch.float64)
        x = means[which]
        for k in which.unique().tolist():
            here = which == k
            x[here] += (eps[here] @ vectors[k] * variances[k].sqrt()) @ vectors[k].T
        return x.float().reshape(len(sample_index), *self.spec.shape), None
