"""Shared by objectives: names of solvers, and the distance with weighting, bands and LPIPS."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.api import ConfigError, Params, located

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Basis, StudentInTraining

#: the keys of harness.core.solver.SOLVERS, without importing torch
SolverName = Literal["heun", "unipc"]
NEEDED = (
    "distance lpips needs lpips_trunk, VGG16's weights as torchvision publishes them"
    " (vgg16-397923af.pth), and lpips_heads, the file weights/v0.1/vgg.pth of the lpips package"
)


class DistanceParams(Params):
    """`distance`, and for lpips two weights files, whose digests become part of the run's identity.

    `lpips_sha256` is filled in from the files; if given, it must match them. `weighting` is a
    factor w(t) of each sample as in consistency models, 1/t^2 for `snr`, and so on, see
    harness/objectives/consistency.py.

    `bands: whitened` weights errors by frequency: both samples are transformed to the
    preconditioning's basis, and each coordinate is multiplied by sigma_data over the standard
    deviation of clean data in its band.
    """

    distance: Literal["l2", "l1", "pseudo-huber", "lpips"] = "l2"
    weighting: Literal["uniform", "snr", "snr1", "truncated-snr", "karras"] = "uniform"
    bands: Literal["alike", "whitened"] = "alike"
    lpips_trunk: str | None = located(default=None)
    lpips_heads: str | None = located(default=None)
    lpips_pooling: Literal["average", "max"] = "average"
    lpips_sha256: list[str] | None = Field(default=None, validate_default=True)

    @model_validator(mode="after")
    def _both_files(self) -> DistanceParams:
        if (self.distance == "lpips") != (self.lpips_sha256 is not None):
            raise ValueError(NEEDED if self.distance == "lpips" else "lpips_* go with lpips")
        return self

    @model_validator(mode="after")
    def _of_samples(self) -> DistanceParams:
        if self.distance == "lpips" and self.bands != "alike":
            raise ValueError("distance lpips compares images, not bands: leave out bands")
        return self

    @field_validator("lpips_trunk", "lpips_heads")
    @classmethod
    def _is_there(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{path}: no such file; {NEEDED}")
        return path

    @field_validator("lpips_sha256")
    @classmethod
    def _digests(cls, given: list[str] | None, info: Any) -> list[str] | None:
        trunk, heads = info.data.get("lpips_trunk"), info.data.get("lpips_heads")
        if not trunk or not heads:
            return None  # one of them is missing, or refused
        found = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (trunk, heads)]
        if given is not None and given != found:
            raise ValueError(f"{trunk} and {heads} are not the files this was planned with")
        return found


class Distance:
    """The distance selected by `params`; LPIPS weights are loaded on first use."""

    def __init__(self, params: DistanceParams) -> None:
        self.params = params
        self._lpips: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Objective.needs`."""
        return ("banded",) if self.params.bands == "whitened" else ()

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        t: Tensor,
        sigma_data: float,
        student: StudentInTraining | None = None,
    ) -> Tensor:
        """Weighted mean over the batch, a scalar, for a and b [B, *shape] and their levels t [B].

        Args:
            student: needed for `bands: whitened`, which uses the basis of its preconditioning.

        Raises:
            ConfigError: LPIPS of samples that are not images, or with unreadable weights;
                `bands: whitened` for a preconditioning without bands.
        """
        from harness.objectives.consistency import weights

        p = self.params
        if p.bands == "whitened":
            basis = None if student is None else student.basis
            a, b = (_whitened(each, sigma_data, basis) for each in (a, b))
        if p.distance != "lpips" and p.weighting == "uniform":
            return mean_distance(p.distance, a, b)
        found = self._perceived(a, b) if p.distance == "lpips" else distances(p.distance, a, b)
        if p.weighting != "uniform":
            found = weights(p.weighting, t, t, sigma_data).to(found.dtype) * found
        return found.mean()

    def _perceived(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 4 or a.shape[1] not in (1, 3):
            raise ConfigError(
                f"distance lpips compares grey or RGB images, not samples of {list(a.shape[1:])};"
                " use l2, l1 or pseudo-huber"
            )
        if self._lpips is None:
            from harness.core.lpips import LPIPS

            p = self.params
            try:
                self._lpips = LPIPS(p.lpips_pooling).load(p.lpips_trunk, p.lpips_heads).to(a.device)
            except ValueError as error:
                raise ConfigError(f"distance lpips: {error}") from None
        return self._lpips(a, b)


def _whitened(x: Tensor, sigma_data: float, basis: Basis | None) -> Tensor:
    """Coordinates of x scaled such that clean data have deviation sigma_data in every band."""
    if basis is None or basis.deviations is None:
        raise ConfigError(
            "bands: whitened weighs the bands of a preconditioning, and this one has none;"
            " give this objective to spectral alone, or leave out bands"
        )
    return basis.coordinates(x) * (sigma_data / basis.spread(basis.deviations))


def distances(name: str, a: Tensor, b: Tensor) -> Tensor:
    """Distance of each pair of samples of a and b, [B, *shape], in float32 or better; [B].

    l2, l1: mean over coordinates of the squared, of the absolute difference (CM's l2 and l1).
    pseudo-huber: sqrt(||a - b||^2 + c^2) - c with c = 0.00054 sqrt(d)
    (Song & Dhariwal 2023, "Improved techniques for training consistency models").
    """
    difference = (a.float() - b.float()).flatten(1)
    if name == "l2":
        return difference.square().mean(1)
    if name == "l1":
        return difference.abs().mean(1)
    c = 0.00054 * math.sqrt(difference.shape[1])
    return (difference.square().sum(1) + c * c).sqrt() - c


def mean_distance(name: str, a: Tensor, b: Tensor) -> Tensor:
    """The mean of `distances` over the batch, a scalar."""
    if name == "l2":  # in one sum, as published runs were trained
        return (a.float() - b.float()).flatten(1).square().mean()
    return distances(name, a, b).mean()
