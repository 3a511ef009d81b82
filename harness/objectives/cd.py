"""Consistency distillation (Song et al. 2023, algorithm 2): every jump ends at sigma_min."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import (
    Batch,
    Objective,
    StudentInTraining,
    StudentLike,
    Teacher,
    TeacherSpec,
    register_objective,
)
from harness.objectives.distances import Distance, DistanceParams, SolverName

if TYPE_CHECKING:
    from torch import Tensor


@register_objective("cd")
class ConsistencyDistillation(Objective):
    """Consistency distillation: d( f(x_t, t -> sigma_min), sg f_target(x_u, u -> sigma_min) ).

    u is `steps` nodes below t, and x_u the teacher's ODE solution from x_t. The default weighting
    is uniform, as in the published commands. If u is sigma_min, the target is x_u itself and costs
    no network pass.
    """

    class Params(DistanceParams):
        """`nodes`: levels of the Karras grid; `steps`: teacher steps between t and u.

        `solver`: `heun` with two teacher evaluations per step, or `unipc` with one (docs/speed.md).
        A single step of `unipc` is a DDIM step.
        """

        nodes: int = Field(default=18, ge=2)
        rho: float = Field(default=7.0, gt=0)
        steps: int = Field(default=1, ge=1)
        solver: SolverName = "heun"

    samplers = ("stochastic",)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.distance = Distance(self.params)
        self.needs = self.distance.needs

    def trained_times(self, spec: TeacherSpec) -> Tensor:
        """See `Objective.trained_times`."""
        from harness.core.schedule import karras

        return karras(self.params.nodes, spec.sigma_min, spec.sigma_max, self.params.rho)

    def solver_steps(self) -> Mapping[int, float]:
        """See `Objective.solver_steps`."""
        return {min(self.params.steps, self.params.nodes - 1): 1.0}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`; targets at u = sigma_min cost no pass."""
        (steps,) = self.solver_steps()
        jumps = 1 - 1 / (self.params.nodes - steps)
        return (2 if self.params.solver == "heun" else 1) * steps + jumps + 3

    def terms(
        self, student: StudentInTraining, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        return {"cd": lambda: self._consistency(student, target, teacher, batch)}

    def _consistency(
        self, student: StudentInTraining, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Tensor:
        import torch

        from harness.core.random import integers, normal
        from harness.core.solver import SOLVERS, per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        p = self.params
        x0, device = batch.x0, batch.x0.device
        grid = self.trained_times(teacher.spec)
        steps = min(p.steps, p.nodes - 1)
        i = integers(batch.seed, "time", batch.step, batch.host_batch_index, 0, p.nodes - 1 - steps)
        times = sent(grid[i + torch.arange(steps + 1)[:, None]], device)  # [steps + 1, B]
        moving = sent((i + steps < p.nodes - 1).nonzero()[:, 0], device)
        t, u = times[0], times[-1]
        clean = sent(grid[-1:], device).expand(len(x0))
        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        x_t = x0 + per_sample(t, x0) * eps
        with torch.no_grad():
            solver = SOLVERS[p.solver]
            x_u = solver(lambda x, a: teacher.denoise(x, a, batch.labels), x_t, times)
            target_jump = jump_rows(target, x_u, u, clean, moving, batch.labels)
        estimate = student.jump(x_t, t, clean, batch.labels)
        return self.distance(estimate, target_jump, t, teacher.spec.sigma_data, student)
