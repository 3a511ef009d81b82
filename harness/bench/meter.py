"""Count, and optionally time, the network passes of a training step by hooks.

One evaluation is one forward pass of a network for the cell's whole batch; a pass on some rows
counts their share. A backward pass counts 2 where weights learn (their gradient and the input's are
as much work as the forward pass each) and 1 where only the gradient of the input is needed. A pass
with a derivative along a direction counts 2, the second for the derivative.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from harness.backbones.base import Backbone
from harness.train.cell import Cell


@dataclass
class Pass:
    """One pass through a network: whose, in which part of the step, how much, how long."""

    network: str
    part: str
    backward: bool
    graph: bool
    evaluations: float
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """What the pass is for: the teacher's solution, the target (no gradient), or a term."""
        if self.network == "teacher":
            return "teacher"
        return self.part if self.graph else "target"


def clock(device: torch.device) -> Callable[[], float]:
    """A function that returns the time in seconds after synchronising the device."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class Meter:
    """Notes every pass of a cell's networks while it is attached, and the parts of a step.

    Args:
        timed: also time passes and parts. On a GPU that makes the host wait at each of them, so
            times of whole steps are to be taken without.

    Attributes:
        passes: every pass so far.
        parts: seconds by part of the step, as `harness.train.step.take_step` names them.
    """

    def __init__(self, cell: Cell, device: torch.device, *, timed: bool = True) -> None:
        self.batch = cell.spec.train["batch"]
        self.now = clock(device) if timed else lambda: 0.0
        self.passes: list[Pass] = []
        self.parts: dict[str, float] = {}
        self._part = ""
        self._open: list[tuple[Pass, float]] = []
        self._networks: list[tuple[str, Backbone]] = [
            ("student", cell.network),
            *(("target", network) for network in cell.networks[1:]),
            *(("teacher", backbone) for backbone in cell.teacher.backbones()),
        ]

    @property
    def evaluations(self) -> float:
        """All passes so far, in forward passes of the cell's batch."""
        return sum(item.evaluations for item in self.passes)

    @contextmanager
    def attached(self) -> Iterator[Meter]:
        """Record every pass within the `with` block."""
        for name, backbone in self._networks:
            backbone.network = self._noted(name, backbone)
        try:
            yield self
        finally:
            for _, backbone in self._networks:
                del backbone.network  # the class's own shows again

    @contextmanager
    def watch(self, part: str) -> Iterator[None]:
        """Time a part of the step; backward passes that are still open end with it."""
        self._part, began = part, self.now()
        yield
        ended = self.now()
        for item, start in self._open:
            item.seconds += ended - start
        self._open.clear()
        self.parts[part] = self.parts.get(part, 0.0) + ended - began

    def _noted(self, name: str, backbone: Backbone) -> Callable[..., Tensor]:
        network = backbone.network
        learns = any(parameter.requires_grad for parameter in backbone.parameters())

        def note(x: Tensor, *rest: Any) -> Tensor:
            began = self.now()
            output = network(x, *rest)
            share, graph = len(x) / self.batch, output.requires_grad
            forward = share * (1 if forward_ad.unpack_dual(x).tangent is None else 2)
            self.passes.append(Pass(name, self._part, False, graph, forward, self.now() - began))
            if graph:
                output.register_hook(lambda _: self._start(name, share * (2 if learns else 1)))
                if x.requires_grad:
                    x.register_hook(lambda _: self._end())
            return output

        return note

    def _start(self, name: str, evaluations: float) -> None:
        item = Pass(name, self._part, True, True, evaluations)
        self.passes.append(item)
        self._open.append((item, self.now()))

    def _end(self) -> None:
        item, start = self._open.pop()
        item.seconds += self.now() - start
