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

#: of torch's compiler for one piece of code, eight by default; a cell needs eleven
RECOMPILE_LIMIT = 64


def repeatable() -> None:
    """Same inputs, same bits, where torch has such an algorithm; else it warns."""
    # float32 is float32, whatever it is by default: features of FID are no place for ten bits
    _allow_tf32(False)
    # torch.use_deterministic_algorithms asks for the same, but imports torch's compiler
    torch.set_deterministic_debug_mode("warn")
    # nothing here reads what it has not written: spare a pass over all memory that is allocated
    torch.utils.deterministic.fill_uninitialized_memory = False


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
    """Compile a cell's networks, its teacher's included, or lay them out with channels last.

    A network is compiled whole (a graph break would be an error). Row counts differ from step to
    step, so from its second batch size on it is compiled for any; sides and channels stay fixed.
    That rules CUDA graphs out, which fix batch sizes too.
    """
    for backbone in (cell.network, cell.target, *cell.teacher.backbones()):
        if channels_last:
            backbone.to(memory_format=torch.channels_last)
        if compile and backbone.core is not None:
            from torch._dynamo import config as compiler  # half a second, for those who ask
            from torch._inductor import config as kernels

            kernels.deterministic = True
            # three networks share their code: with gradients and without, in training or not
            compiler.recompile_limit = RECOMPILE_LIMIT
            backbone.core.compile(fullgraph=True)
