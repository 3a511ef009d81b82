"""An orthonormal basis of the data in which a preconditioning may have one coefficient per band.

It is a product of one matrix for each axis of a sample: principal directions for vectors, colours x
rows x columns for images. A band is a set of coordinates that share a coefficient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from harness.api.coeffs import Coeffs
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: largest deviation of an entry of U U^T from the identity
ORTHONORMAL = 1e-9


class Basis:
    """z = U x with U = U_1 x U_2 x ..., one orthonormal matrix [n, n] for each axis of a sample.

    Args:
        axes: the matrices, float64, whose rows are the basis vectors.
        bands: index 0..K-1 of the band of each coordinate of z, int64 [*shape].
        deviations: standard deviation of clean data in each band, float64 [K]; used by losses that
            weight bands.

    Raises:
        ConfigError: a matrix is not orthonormal or does not fit `bands`, or a band is empty.
    """

    def __init__(
        self, axes: Iterable[Tensor], bands: Tensor, deviations: Tensor | None = None
    ) -> None:
        import torch

        self.axes, self.bands, self.deviations = tuple(axes), bands, deviations
        sizes = [tuple(axis.shape) for axis in self.axes]
        if sizes != [(n, n) for n in bands.shape]:
            raise ConfigError(
                f"basis: the bands are for samples of shape {list(bands.shape)}, the matrices are"
                f" {', '.join(map(str, sizes))}: give one [n, n] for each axis"
            )
        for number, axis in enumerate(self.axes):
            off = float((axis @ axis.mT - torch.eye(len(axis)).to(axis)).abs().max())
            if not off < ORTHONORMAL:
                raise ConfigError(
                    f"basis: matrix {number} is not orthonormal, U U^T is {off:.1e} from 1"
                )
        self.count = int(bands.max()) + 1
        filled = torch.bincount(bands.flatten().clamp_min(0), minlength=self.count)
        if int(bands.min()) < 0 or int(filled.min()) == 0:
            raise ConfigError(
                f"basis: bands do not cover the samples: they hold {filled.tolist()} coordinates,"
                " and each has to hold one at least; number them 0, 1, 2, ..."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.bands.shape)

    def coordinates(self, x: Tensor) -> Tensor:
        """z = U x in float64, [B, *shape] like x."""
        x = x.double()
        for number, axis in enumerate(self.axes, 1):
            x = (x.movedim(number, -1) @ axis.mT).movedim(-1, number)
        return x

    def samples(self, z: Tensor) -> Tensor:
        """x = U^T z, [B, *shape] like z."""
        for number, axis in enumerate(self.axes, 1):
            z = (z.movedim(number, -1) @ axis).movedim(-1, number)
        return z

    def spread(self, values: Tensor) -> Tensor:
        """Expand values per band [..., K] to values per coordinate [..., *shape]."""
        return values[..., self.bands]

    @property
    def sizes(self) -> Tensor:
        """Number of coordinates in each band, int64 [K]."""
        return self.bands.flatten().bincount()

    def mean(self, coeffs: Coeffs) -> Coeffs:
        """Average coefficients [..., K] over all coordinates: one number [...] in place of K."""
        share = self.sizes.double() / self.bands.numel()
        shift = None if coeffs.shift is None else coeffs.shift @ share
        return Coeffs(coeffs.skip @ share, coeffs.out @ share, shift)

    def to(self, device: Any) -> Self:
        """A copy of the basis on a device."""
        deviations = None if self.deviations is None else self.deviations.to(device)
        axes = [axis.to(device) for axis in self.axes]
        return type(self)(axes, self.bands.to(device), deviations)
