"""Torch settings of a cell: determinism, TF32, compilation and memory layout.

`compile` and `channels_last` of the `train` section change rounding only; they are recorded as
provenance and are not part of a run's identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.train.cell import Cell

#: recompilations of one function that torch's compiler may do (8 by default): sizes, dtypes, modes
RECOMPILE_LIMIT = 256


def repeatable() -> None:
    """Use deterministic algorithms and full float32; torch warns where it has no such algorithm."""
    # no TF32, whatever the default: its ten mantissa bits are too few for features of FID
    _allow_tf32(False)
    # torch.use_deterministic_algorithms asks for the same, but imports torch's compiler
    torch.set_deterministic_debug_mode("warn")
    # no code here reads uninitialised memory, so filling it would only cost time
    torch.utils.deterministic.fill_uninitialized_memory = False


@contextmanager
def repeatably() -> Iterator[None]:
    """`repeatable` within the `with` block; the caller's torch settings are restored afterwards."""
    backends, fill = (torch.backends.cudnn, torch.backends.cuda.matmul), torch.utils.deterministic
    mode, filled = torch.get_deterministic_debug_mode(), fill.fill_uninitialized_memory
    allowed = [backend.allow_tf32 for backend in backends]
    repeatable()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        fill.fill_uninitialized_memory = filled
        for backend, was in zip(backends, allowed, strict=True):
            backend.allow_tf32 = was


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Within the `with` block, allow TF32 on a GPU if `precision` is `tf32`."""
    _allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def tune(cell: Cell, *, compile: bool, channels_last: bool) -> None:
    """Compile a cell's networks, its teacher's included, and/or convert them to channels last.

    Only the operations between convolutions are compiled (harness/backbones/fused.py).
    """
    for backbone in (*cell.networks, *cell.teacher.backbones()):
        if channels_last:
            backbone.to(memory_format=torch.channels_last)
        if compile:
            from torch._dynamo import config as compiler  # half a second, for those who ask
            from torch._functorch import config as graphs
            from torch._inductor import config as kernels

            kernels.deterministic = True
            compiler.recompile_limit = RECOMPILE_LIMIT
            compiler.accumulated_recompile_limit = 8 * RECOMPILE_LIMIT
            graphs.donated_buffer = False  # an objective may differentiate one graph twice
            backbone.fuse()
