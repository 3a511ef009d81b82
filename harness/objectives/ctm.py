"""Consistency trajectory distillation (Kim et al. 2024): soft consistency plus denoising."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

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


@register_objective("ctm")
class ConsistencyTrajectory(Objective):
    """CTM: soft consistency compared at sigma_min by the EMA network, plus denoising (DSM).

        estimate = f_ema( f(x_t, t -> s),            s -> sigma_min )    gradient through f_ema
        target   = f_ema( sg f(Solver_h(x_t, t -> u), u -> s), s -> sigma_min )

    with t = t(i), u = t(i + h), s = t(j) on a Karras grid, h shared by the batch, i and j drawn per
    sample, plus the denoising loss (sigma^2 + sd^2)/(sigma sd)^2 (D(x_0 + sigma eps) - x_0)^2 of
    the implied denoiser, with a weight that gives it the same gradient norm at the last layer.

    Network passes that are identities in the reference code are skipped: no projection if s is
    sigma_min (half of all samples at the published setting), no jump of the target if s = u.
    With `project: false` estimate and target are compared at s itself ("local" matching), which
    saves three more passes per projected sample and measures the error at level s, not sigma_min.
    """

    class Params(DistanceParams):
        """`nodes` N of the grid, `steps` H of the solver, `project`: see the class.

        `solver`: `heun` as published, two teacher evaluations per step, or `unipc`, one per step:
        half the teacher's cost, at 0.8 to 2.4 times the error (docs/speed.md).

        `adaptive_batch`: number of samples on which the weight of the denoising loss is measured,
        whatever the micro-batch; by default the global batch. The reference code measures it on
        each micro-batch of each process (16 on CIFAR-10, 18 on ImageNet-64).
        """

        nodes: int = Field(default=18, ge=3)
        rho: float = Field(default=7.0, gt=0)
        steps: int | None = Field(default=None, ge=1)  # H; None: N - 1, as published
        steps_drawn: Literal["weighted", "uniform", "fixed"] = "weighted"
        dsm_weight: float = Field(default=1.0, ge=0)
        adaptive: bool = True
        adaptive_batch: int | None = Field(default=None, ge=1)
        solver: SolverName = "heun"
        project: bool = True

        @model_validator(mode="after")
        def _weight_of_what(self) -> Self:
            if self.adaptive_batch and not (self.adaptive and self.dsm_weight):
                raise ValueError(
                    "adaptive_batch is what an adaptive weight of the denoising loss is measured"
                    " on, and there is none: leave it out"
                )
            return self

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.adaptive = self.params.adaptive
        self.adaptive_batch = self.params.adaptive_batch
        self.distance = Distance(self.params)
        self.needs = self.distance.needs

    def trained_times(self, spec: TeacherSpec) -> Tensor:
        """See `Objective.trained_times`."""
        from harness.core.schedule import karras

        return karras(self.params.nodes, spec.sigma_min, spec.sigma_max, self.params.rho)

    def terms(
        self, student: StudentInTraining, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        terms = {"ctm": lambda: self._consistency(student, target, teacher, batch)}
        if self.params.dsm_weight > 0:
            terms["dsm"] = lambda: self._denoising(student, teacher, batch)
        return terms

    def solver_steps(self) -> Mapping[int, float]:
        """See `Objective.solver_steps`: the distribution of `draw_steps`."""
        most = min(self.params.steps or self.params.nodes - 1, self.params.nodes - 1)
        if self.params.steps_drawn == "fixed":
            return {most: 1.0}
        shares = range(1, most + 1) if self.params.steps_drawn == "weighted" else [1] * most
        return {h: share / sum(shares) for h, share in enumerate(shares, 1)}

    def at_solver_steps(self, h: int) -> Self:
        """See `Objective.at_solver_steps`."""
        fixed = copy.copy(self)
        fixed.params = self.params.model_copy(update={"steps": h, "steps_drawn": "fixed"})
        return fixed

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`; passes that are identities are not counted."""
        solver, last = 2 if self.params.solver == "heun" else 1, self.params.nodes - 1
        rest = 0.0
        for h, share in self.solver_steps().items():
            # i is uniform on 0..last - h, j on i + h..last: of m = last - i - h + 1 nodes, one is u
            # and one sigma_min
            lengths = range(1, last - h + 2)
            moving = sum(1 - 1 / m for m in lengths) / len(lengths)
            rest += share * (solver * h + moving + 3 * moving * self.params.project)
        return rest + 3 + 3 * (self.params.dsm_weight > 0)

    def draw_steps(self, seed: int, step: int) -> int:
        """h, the number of solver steps of this iteration: P(h) ~ h on 1..H by default."""
        import torch

        from harness.core.random import uniform

        most = min(self.params.steps or self.params.nodes - 1, self.params.nodes - 1)
        if self.params.steps_drawn == "fixed":
            return most
        u = float(uniform(seed, "solver steps", step, torch.zeros(1, dtype=torch.int64)))
        if self.params.steps_drawn == "uniform":
            return 1 + int(u * most)
        total, drawn = 0, u * most * (most + 1) / 2
        for h in range(1, most):
            total += h
            if drawn < total:
                return h
        return most

    def _consistency(
        self, student: StudentInTraining, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Tensor:
        import torch

        from harness.core.random import integers, normal
        from harness.core.solver import SOLVERS, per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        p, x0, labels = self.params, batch.x0, batch.labels
        last = p.nodes - 1
        grid = self.trained_times(teacher.spec)
        h = self.draw_steps(batch.seed, batch.step)
        batch_index, device = batch.host_batch_index, x0.device  # row counts are known on the host
        i = integers(batch.seed, "time", batch.step, batch_index, 0, last - h)
        j = integers(batch.seed, "end", batch.step, batch_index, i + h, last)
        times = sent(grid[i + torch.arange(h + 1)[:, None]], device)  # [h + 1, B]
        t, u, s = times[0], times[-1], sent(grid[j], device)
        clean = sent(grid[-1:], device).expand(len(x0))
        moving = sent((j > i + h).nonzero()[:, 0], device)  # s < u
        noisy = sent((j < last).nonzero()[:, 0], device)  # s > sigma_min

        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        x_t = x0 + per_sample(t, x0) * eps
        with torch.no_grad():
            x_u = SOLVERS[p.solver](lambda x, a: teacher.denoise(x, a, labels), x_t, times)
            target_jump = jump_rows(student, x_u, u, s, moving, labels)
            if p.project:
                target_jump = jump_rows(target, target_jump, s, clean, noisy, labels)
        estimate = student.jump(x_t, t, s, labels)
        if p.project:
            estimate = jump_rows(target, estimate, s, clean, noisy, labels)
        return self.distance(estimate, target_jump, t, teacher.spec.sigma_data, student)

    def _denoising(self, student: StudentLike, teacher: Teacher, batch: Batch) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.solver import per_sample

        x0 = batch.x0
        sigma = self.draw_dsm_sigma(
            uniform(batch.seed, "dsm level", batch.step, batch.batch_index, 1)[:, 0],
            normal(batch.seed, "dsm log level", batch.step, batch.batch_index, (), torch.float64),
            batch.batch_index,
            teacher,
        )
        eps = normal(batch.seed, "dsm noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        denoised = student.denoise(x0 + per_sample(sigma, x0) * eps, sigma, batch.labels)
        var = teacher.spec.sigma_data**2
        weight = (sigma**2 + var) / (sigma**2 * var)
        error = (denoised.float() - x0.float()).square().flatten(1).mean(1)
        return self.params.dsm_weight * (weight.float() * error).mean()

    def draw_dsm_sigma(self, u: Tensor, n: Tensor, batch_index: Tensor, teacher: Teacher) -> Tensor:
        """Noise levels of the denoising loss, float64 [B], from uniforms and normals.

        Half of the batch (even index) has log sigma ~ N(-1.2, 1.2^2), the other half a uniform
        position on the noisiest 70 % of the grid ("halflognormal" in the reference code).
        """
        import torch

        from harness.core.schedule import warped

        low, high = teacher.spec.sigma_min, teacher.spec.sigma_max
        on_grid = warped(0.7 * u, low, high, self.params.rho)
        return torch.where(batch_index % 2 == 0, (1.2 * n - 1.2).exp().clamp(low, high), on_grid)
