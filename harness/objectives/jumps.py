"""Jumps of part of a batch: rows whose jump is the identity cost no network pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import StudentLike


#: on a GPU, numbers of rows are rounded up to multiples of 1/PORTIONS of the batch
PORTIONS = 8


def padded_on_gpu(rows: Tensor, x: Tensor) -> Tensor:
    """`rows` [k], on a GPU padded by repetition to a multiple of an eighth of the batch x.

    cuDNN selects convolution algorithms anew for each new batch size, which takes the host longer
    than the pass; padding bounds the number of sizes. The first k entries are `rows` itself.
    """
    import torch

    if x.device.type == "cpu":
        return rows
    count, portion = len(rows), -(-len(x) // PORTIONS)
    missing = min(-count % portion, len(x) - count)
    return torch.cat([rows, rows[:1].expand(missing)])


def jump_rows(
    student: StudentLike, x: Tensor, t: Tensor, s: Tensor, rows: Tensor, labels: Tensor | None
) -> Tensor:
    """f(x, t, s) for the given rows of x [B, *shape]; the others are returned as they are.

    Differentiable in x. `rows` [k] int64 on the device of x; its length is known on the host, so
    nothing here waits for the device.
    """
    from harness.core.rows import of_batch

    count = len(rows)
    if count == 0:
        return x
    if count == len(x):
        return student.jump(x, t, s, labels)
    asked = padded_on_gpu(rows, x)
    with of_batch(asked):
        part = student.jump(x[asked], t[asked], s[asked], None if labels is None else labels[asked])
    return x.index_copy(0, rows, part[:count].to(x.dtype))
