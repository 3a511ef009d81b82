"""Bidirectional consistency (Li & He 2024, arXiv 2403.18035): jumps towards noise as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.api import (
    Batch,
    Objective,
    Params,
    StudentInTraining,
    Teacher,
    TeacherSpec,
    register_objective,
)
from harness.objectives.consistency import Weighting, discrete_lognormal, summed_distance, weights

if TYPE_CHECKING:
    from torch import Tensor


class BCMParams(Params):
    """Defaults as in the authors' training from data.

    - `nodes`, `rho`: the Karras grid;
    - `P_mean`, `P_std`: parameters of the log-normal by which its nodes are drawn;
    - `path`: x_t' from x_0 with the noise of x_t (`data`), or by a Heun step of the teacher's ODE;
    - `c`: constant of the pseudo-Huber distance, which is divided by sqrt(d);
    - `weighting`: weighting of the first term; that of the second is 1/|t'' - t|.
    """

    nodes: int = Field(default=321, ge=4)
    rho: float = Field(default=7.0, gt=0)
    P_mean: float = -1.1
    P_std: float = Field(default=2.0, gt=0)
    path: Literal["data", "teacher"] = "data"
    c: float = Field(default=0.06, ge=0)
    weighting: Weighting = "gap"


@register_objective("bcm")
class BidirectionalConsistency(Objective):
    """Bidirectional consistency (arXiv 2403.18035): jumps to clean data and towards noise.

        w(t, t') h(f(x_t, t -> 0), y) + h(f_target(f(x_t, t -> t''), t'' -> 0), y) / |t'' - t|

    with y = sg f_target(x_t', t' -> 0), 0 being sigma_min; t' is the node below t, and t'' is any
    node but t, below or above it. The gradient passes through f_target to its input; its weights
    are those of the target network, with `train.ema: 0` those of the student, as published.
    """

    Params = BCMParams
    needs = ("upward",)

    def trained_times(self, spec: TeacherSpec) -> Tensor:
        """See `Objective.trained_times`."""
        from harness.core.schedule import karras

        return karras(self.params.nodes, spec.sigma_min, spec.sigma_max, self.params.rho)

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        return {"bcm": lambda: self._both_ways(student, target, teacher, batch)}

    def solver_steps(self) -> Mapping[int, float]:
        """See `Objective.solver_steps`."""
        return {1: 1.0} if self.params.path == "teacher" else {}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`; jumps from sigma_min cost no pass."""
        import torch

        u = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        pairs = (each.flatten() for each in torch.meshgrid(u, u, indexing="ij"))
        levels = self.levels(*pairs, spec)
        near, end = (float((level > spec.sigma_min).double().mean()) for level in levels[1:])
        return 6 + near + 2 * end + 2 * (self.params.path == "teacher")

    def levels(self, u: Tensor, v: Tensor, spec: TeacherSpec) -> tuple[Tensor, Tensor, Tensor]:
        """(t, t', t''), float64 [B] each, from uniforms u and v."""
        import torch

        p = self.params
        grid = self.trained_times(spec).flip(0)
        mass = discrete_lognormal(grid, p.P_mean, p.P_std)
        below = mass[:-1].cumsum(0) / mass[:-1].sum()
        k = torch.searchsorted(below, u.contiguous()).clamp_max(len(below) - 1)
        # t'' by the same law without the mass of the node of t
        mine, up_to = mass[k + 1], mass.cumsum(0)
        place = v * (1 - mine)
        place = torch.where(place < up_to[k], place, place + mine)
        j = torch.searchsorted(up_to, place).clamp_max(len(mass) - 1)
        return grid[k + 1], grid[k], grid[j]

    def _both_ways(
        self, student: StudentInTraining, target: StudentInTraining, teacher: Teacher, batch: Batch
    ) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.solver import heun, per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        p, x0, labels, spec = self.params, batch.x0, batch.labels, teacher.spec
        draw = (batch.step, batch.host_batch_index)
        u, v = (uniform(batch.seed, purpose, *draw)[:, 0] for purpose in ("time", "end"))
        on_host = self.levels(u, v, spec)
        noisy = [sent((level > spec.sigma_min).nonzero()[:, 0], x0.device) for level in on_host]
        t, near, other = (sent(level, x0.device) for level in on_host)
        clean = torch.full_like(t, spec.sigma_min)
        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        x_t = x0 + per_sample(t, x0) * eps
        with torch.no_grad():
            x_near = x0 + per_sample(near, x0) * eps
            if p.path == "teacher":
                pair = torch.stack([t, near])
                x_near = heun(lambda x, a: teacher.denoise(x, a, labels), x_t, pair)
            target_jump = jump_rows(target, x_near, near, clean, noisy[1], labels)
        end = student.jump(x_t, t, clean, labels)
        moved = student.jump(x_t, t, other, labels)
        moved = jump_rows(target, moved, other, clean, noisy[2], labels)
        size = x0[0].numel() ** -0.5
        first, second = (
            size * summed_distance("pseudo-huber", each, target_jump, p.c) for each in (end, moved)
        )
        w = weights(p.weighting, t, near, spec.sigma_data)
        return (w.to(first.dtype) * first + second / (other - t).abs().to(second.dtype)).mean()
