"""Adam, AdamW and RAdam: torch's own kernels, without the classes around them.

`torch.optim`'s classes import torch's compiler on first use, which doubles the time a worker takes
to its first step; the functions they call do not. Fused Adam takes a third of the time of the plain
one, RAdam exists as foreach only (docs/speed.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.radam import radam

BETAS, EPS = (0.9, 0.999), 1e-8
DECAY = {"adam": 0.0, "adamw": 1e-2, "radam": 0.0}
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(train: Mapping[str, Any], step: int) -> float:
    """The learning rate of step `step` (the first is 0) by the grid's `train` section.

    Linear warm-up, times sqrt(n/step) from step n = `lr_sqrt_from` on (Karras et al. 2024, eq. 67)
    or half a cosine that is 0 at `lr_zero_at`.
    """
    rate, warmup = float(train["lr"]), train["warmup"]
    if warmup:
        rate *= min(1.0, (step + 1) / warmup)
    if (start := train.get("lr_sqrt_from")) is not None:
        rate *= math.sqrt(start / max(step, start))
    if (end := train.get("lr_zero_at")) is not None:
        rate *= 0.5 * (1 + math.cos(math.pi * step / end))
    return rate


class Optimizer:
    """One optimizer for all parameters, with torch's default eps and weight decay.

    `state_dict` has the layout of `torch.optim`, so that each can load the state of the other.

    Args:
        name: adam, adamw or radam.
        lr: the learning rate; `self.lr` may be changed between steps.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = BETAS,
    ) -> None:
        self.name, self.lr, self.betas = name, lr, betas
        self.parameters = list(parameters)
        self.fused = name != "radam"
        self.steps: list[Tensor] = []
        self.moments: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters by gradients given in their order; waits for no device."""
        if not self.steps:
            self._start()
        beta1, beta2 = self.betas
        shared = {"beta1": beta1, "beta2": beta2, "eps": EPS, "lr": self.lr}
        shared["weight_decay"] = DECAY[self.name]
        lists = (self.parameters, list(gradients), *(self.moments[name] for name in MOMENTS))
        if self.name == "radam":
            radam(*lists, self.steps, foreach=True, **shared)
        else:
            update = adamw if self.name == "adamw" else adam
            update(*lists, [], self.steps, fused=True, amsgrad=False, maximize=False, **shared)

    def state_dict(self) -> dict[str, Any]:
        """State of every parameter by index, and settings; the state is empty before a step."""
        numbers = range(len(self.parameters))
        state = {
            i: {"step": self.steps[i], **{name: self.moments[name][i] for name in MOMENTS}}
            for i in (numbers if self.steps else ())
        }
        group = {"lr": self.lr, "betas": list(self.betas), "eps": EPS, "params": list(numbers)}
        return {"state": state, "param_groups": [group]}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Load moments and step counts; learning rate and other settings are not loaded."""
        state = content["state"]
        self.steps, self.moments = [], {}
        if not state:
            return
        self._start()
        for i, entry in state.items():
            self.steps[int(i)].copy_(torch.as_tensor(entry["step"]))
            for name in MOMENTS:
                self.moments[name][int(i)].copy_(entry[name])

    def _start(self) -> None:
        """Zero the moments and step counts; fused kernels need the counts on the device."""
        self.steps = [
            torch.zeros((), device=p.device if self.fused else "cpu") for p in self.parameters
        ]
        self.moments = {
            name: [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
            for name in MOMENTS
        }
