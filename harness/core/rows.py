"""The rows of the batch that a network is called with, so that random draws stay per sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_rows: Tensor | None = None


@contextmanager
def of_batch(rows: Tensor) -> Iterator[None]:
    """Within the `with` block, networks see only these rows (int64 [k]) of the batch."""
    global _rows
    before, _rows = _rows, rows
    try:
        yield
    finally:
        _rows = before


def select(values: Tensor) -> Tensor:
    """The entries of `values` [B, ...] for the rows set by `of_batch`; all if none are set."""
    return values if _rows is None else values[_rows]
