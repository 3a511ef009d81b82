"""Jumps of part of a batch: samples that are already where they should be cost no network pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import StudentLike


def jump_rows(
    student: StudentLike, x: Tensor, t: Tensor, s: Tensor, rows: Tensor, labels: Tensor | None
) -> Tensor:
    """f(x, t, s) for the given rows of x [B, *shape]; the others are returned as they are.

    Differentiable in x. `rows` [k] int64 on the device of x; its length is known on the host, so
    nothing here waits for the device.
    """
    from harness.core.rows import of_batch

    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return student.jump(x, t, s, labels)
    with of_batch(rows):
        part = student.jump(x[rows], t[rows], s[rows], None if labels is None else labels[rows])
    return x.index_copy(0, rows, part.to(x.dtype))
