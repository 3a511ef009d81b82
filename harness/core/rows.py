"""Which samples of a batch a network is about to see, for draws that belong to samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_rows: Tensor | None = None


@contextmanager
def of_batch(rows: Tensor) -> Iterator[None]:
    """Within, networks are called with these rows (int64 [k]) of the batch instead of all of it."""
    global _rows
    before, _rows = _rows, rows
    try:
        yield
    finally:
        _rows = before


def select(values: Tensor) -> Tensor:
    """What belongs to the samples at hand, of `values` [B, ...] that belong to the whole batch."""
    return values if _rows is None else values[_rows]
