"""The coefficients of a jump."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Coeffs(NamedTuple):
    """f = skip * x + out * F + shift * offset, each a float64 tensor of the broadcast (t, s).

    `shift` is None for preconditionings without a constant term. With a `basis`, each may have one
    more axis at the end, with a coefficient for each band.
    """

    skip: Tensor
    out: Tensor
    shift: Tensor | None = None
