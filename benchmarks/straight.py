"""CTM's training step written straight from its definition, to compare the harness's own with.

It does what the published description says and spares nothing: both sides are projected to
sigma_min in every case, both gradients at the last layer take a sweep of their own, optimizer and
EMA are torch's and a loop. Networks, coefficients, distance, data and precision are those of a
cell, so that the ratio of the two times is the harness's doing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.schedule import karras
from harness.core.solver import heun, per_sample
from harness.train.cell import Cell
from harness.train.machine import Machine


class StraightStep:
    """Steps of a cell with a fixed number of solver steps `h`.

    Args:
        micro: the micro-batch; gradients of the batch are accumulated over them.
    """

    def __init__(self, cell: Cell, machine: Machine, micro: int, h: int) -> None:
        self.cell, self.machine, self.micro, self.h = cell, machine, micro, h
        self.optimizer = torch.optim.RAdam(cell.network.parameters(), lr=cell.spec.train["lr"])
        spec = cell.teacher.spec
        nodes = cell.objective.params.nodes
        self.grid = karras(nodes, spec.sigma_min, spec.sigma_max).to(machine.device)
        self.generator = torch.Generator(machine.device).manual_seed(0)

    def __call__(self) -> None:
        """One step on the cell's batch."""
        cell, rate = self.cell, self.cell.spec.train["ema"]
        batch = cell.spec.train["batch"]
        for start in range(0, batch, self.micro):
            x0, labels = cell.dataset.draw(0, "data", torch.arange(start, start + self.micro))
            x0 = x0.to(self.machine.device)
            labels = None if labels is None else labels.to(self.machine.device)
            with self.machine.autocast():
                ctm, dsm = self.consistency(x0, labels), self.denoising(x0, labels)
            last = cell.network.last_layer
            lengths = [
                torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (ctm, dsm)
            ]
            weight = (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4)
            ((ctm + weight * dsm) * (self.micro / batch)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            pairs = zip(cell.target.parameters(), cell.network.parameters(), strict=True)
            for average, parameter in pairs:
                average.mul_(rate).add_(parameter, alpha=1 - rate)

    def consistency(self, x0: Tensor, labels: Tensor | None) -> Tensor:
        """The distance of both ways from x_t to s, projected to sigma_min."""
        cell, student, target = self.cell, self.cell.student, self.cell.ema_student
        last = len(self.grid) - 1
        i = self._integers(last - self.h + 1, x0)
        j = i + self.h + self._integers(last - self.h - i + 1, x0)
        t, s, clean = self.grid[i], self.grid[j], self.grid[-1].expand(len(x0))
        x_t = x0 + per_sample(t, x0) * self._normal(x0)
        estimate = target.jump(student.jump(x_t, t, s, labels), s, clean, labels)
        with torch.no_grad():
            times = torch.stack([self.grid[i + k] for k in range(self.h + 1)])
            x_u = heun(lambda x, a: cell.teacher.denoise(x, a, labels), x_t, times)
            goal = target.jump(student.jump(x_u, times[-1], s, labels), s, clean, labels)
        return cell.objective.distance(estimate, goal, t, cell.teacher.spec.sigma_data)

    def denoising(self, x0: Tensor, labels: Tensor | None) -> Tensor:
        """The weighted denoising loss."""
        sigma = torch.randn(len(x0), generator=self.generator, device=x0.device).double()
        sigma = (1.2 * sigma - 1.2).exp()
        denoised = self.cell.student.denoise(
            x0 + per_sample(sigma, x0) * self._normal(x0), sigma, labels
        )
        var = self.cell.teacher.spec.sigma_data**2
        weight = (sigma**2 + var) / (sigma**2 * var)
        return (per_sample(weight, x0) * (denoised - x0).square()).mean()

    def _integers(self, count: Tensor | int, like: Tensor) -> Tensor:
        """Below `count`, by sample."""
        return (torch.rand(len(like), generator=self.generator, device=like.device) * count).long()

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device)
