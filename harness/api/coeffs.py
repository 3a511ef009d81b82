"""The coefficients of a jump."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Coeffs(NamedTuple):
    """f = skip * x + out * F + shift * offset, each a float64 tensor of the broadcast (t, s).

    `shift` is None for strategies without a constant term. Of a strategy with a `basis`, each may
    have one axis more, the last: a coefficient for every band of it.
    """

    skip: Tensor
    out: Tensor
    shift: Tensor | None = None
