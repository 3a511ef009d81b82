"""How torch computes a cell: repeatably, and with the switches of `train:` that change no number.

The switches alter rounding alone, so they are provenance and no part of a run's identity.
"""

from __future__ import annotations

import torch

from harness.train.cell import Cell


def repeatable() -> None:
    """Same inputs, same bits, where torch has such an algorithm; else it warns."""
    # torch.use_deterministic_algorithms asks for the same, but imports torch's compiler
    torch.set_deterministic_debug_mode("warn")
    # nothing here reads what it has not written: spare a pass over all memory that is allocated
    torch.utils.deterministic.fill_uninitialized_memory = False


def tune(cell: Cell, *, compile: bool, channels_last: bool) -> None:
    """Compile a cell's networks, its teacher's included, or lay them out with channels last.

    A network is compiled whole (a graph break would be an error) and for any batch size: row
    counts differ from step to step. That rules CUDA graphs out, which fix them.
    """
    for backbone in (cell.network, cell.target, *cell.teacher.backbones()):
        if channels_last:
            backbone.to(memory_format=torch.channels_last)
        if compile and backbone.core is not None:
            from torch._inductor import config  # half a second, for those who ask

            config.deterministic = True
            backbone.core.compile(fullgraph=True, dynamic=True)
