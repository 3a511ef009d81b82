"""How torch computes a cell: repeatably, and with the switches of `train:` that change no number.

The switches alter rounding alone, so they are provenance and no part of a run's identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.train.cell import Cell

#: of torch's compiler for one piece of code, eight by default: sizes, dtypes, in training or not
RECOMPILE_LIMIT = 256


def repeatable() -> None:
    """Same inputs, same bits, where torch has such an algorithm; else it warns."""
    # float32 is float32, whatever it is by default: features of FID are no place for ten bits
    _allow_tf32(False)
    # torch.use_deterministic_algorithms asks for the same, but imports torch's compiler
    torch.set_deterministic_debug_mode("warn")
    # nothing here reads what it has not written: spare a pass over all memory that is allocated
    torch.utils.deterministic.fill_uninitialized_memory = False


@contextmanager
def repeatably() -> Iterator[None]:
    """`repeatable` within; torch's settings are the caller's again afterwards."""
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
    """Within, float32 convolutions and products are TF32 on a GPU if `train.precision` says so."""
    _allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def tune(cell: Cell, *, compile: bool, channels_last: bool) -> None:
    """Fuse a cell's networks, its teacher's included, or lay them out with channels last.

    What is compiled lies between convolutions (harness/backbones/fused.py) and takes any sizes.
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
