"""A jump and its directional derivative, for objectives that differentiate the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class JumpTangent(NamedTuple):
    """f(x, t, s) with its autograd graph, and its derivative along (dx, dt), detached.

    With x^ = x/sqrt(t^2 + sd^2), the state in the scale that the network sees, a jump is
    f = a x^ + out F + shift b. Its derivative along (dx, dt) is `carried` + `changed`:

        carried = a dx^ + d(out) F
        changed = d(a) x^ + out dF + d(shift) b

    The second part is the one that is unstable early in training (Lu & Song 2024, section 4.1).
    """

    value: Tensor
    carried: Tensor
    changed: Tensor
