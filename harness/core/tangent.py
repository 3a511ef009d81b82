"""A jump and its derivative, as objectives that differentiate the student see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class JumpTangent(NamedTuple):
    """f(x, t, s) with its graph, and its derivative along a direction, without one.

    With f = skip x + out F + shift b, along (dx, dt) the derivative is `carried` + `changed`:

        carried = skip dx + d(out) F
        changed = d(skip) x + out dF + d(shift) b

    The second part is the one that is unstable early in training (Lu & Song 2024, section 4.1).
    """

    value: Tensor
    carried: Tensor
    changed: Tensor
