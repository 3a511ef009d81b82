"""Truncated consistency models (Lee et al. 2024, arXiv 2410.14895): a second stage for high noise.

The first stage is `ect`. At step `switch` the target network is frozen; from then on the student is
trained on jumps from t >= t' only, and the frozen network gives the targets below t'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import (
    Batch,
    Preconditioning,
    StudentInTraining,
    Teacher,
    TeacherSpec,
    register_objective,
)
from harness.objectives.consistency import summed_distance, weights
from harness.objectives.ect import ConsistencyTuning, TuningParams

if TYPE_CHECKING:
    from torch import Tensor


class TruncatedParams(TuningParams):
    """Parameters of `ect` for both stages, and of the second stage, as in the authors' code.

    - `switch`: the training step at which the second stage begins;
    - `transition`: t', the lowest noise level that the student is trained on in it;
    - `df`, `mean`, `std`: parameters of the Student-t law of log t, truncated to t'..sigma_max;
    - `boundary`: share of samples at t' itself, and `boundary_weight` the weight of their mean.
    """

    switch: int = Field(default=25_000, ge=1)
    transition: float = Field(default=1.0, gt=0)
    df: float = Field(default=0.01, gt=0)
    mean: float = 0.0
    std: float = Field(default=0.2, gt=0)
    boundary: float = Field(default=0.25, ge=0, lt=1)
    boundary_weight: float = Field(default=0.1, ge=0)
    ratio_limit: float = Field(default=0.999, gt=0, le=1)


@register_objective("tcm")
class TruncatedConsistency(ConsistencyTuning):
    """Truncated consistency: `ect`, and from step `switch` a stage on noise levels t >= t' only.

        E_t>t'[w d( f(x_t, t), sg f'(x_r, r) )] + lambda_b E_t=t'[w d( f(x_t, t), sg f'(x_r, r) )]

    where f' is the student for r >= t' and the frozen network of the first stage below. The two
    expectations are means over the samples with Student-t log t and over those at t'.
    """

    Params = TruncatedParams

    def freezes_at(self) -> int:
        """See `Objective.freezes_at`."""
        return int(self.params.switch)

    def unscheduled(self, steps: int) -> str:
        """See `Objective.unscheduled`."""
        switch = self.params.switch
        if switch < steps:
            return super().unscheduled(steps)
        return (
            f"its second stage begins at step {switch}, and budgets end at {steps}: give a smaller"
            " switch"
        )

    def unsuited(self, spec: TeacherSpec, precond: Preconditioning) -> str:
        """See `Objective.unsuited`; t' must lie within the teacher's noise range."""
        if spec.sigma_min < self.params.transition < spec.sigma_max:
            return super().unsuited(spec, precond)
        return (
            f"transition: {self.params.transition:g} is not between the teacher's noise levels,"
            f" {spec.sigma_min:g} and {spec.sigma_max:g}"
        )

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        if batch.step < self.params.switch:
            return super().terms(student, target, teacher, batch)
        return {"tcm": lambda: self._truncated(student, teacher, batch)}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`."""
        import torch

        if step < self.params.switch:
            return super().evaluations(spec, step)
        batch_index = torch.arange(4096)
        t = self.noisy_times((batch_index.double() + 0.5) / 4096, batch_index, spec)
        return 3 + float((self.params.nearer(t, step, spec) > spec.sigma_min).double().mean())

    def at_boundary(self, batch_index: Tensor) -> Tensor:
        """Bool [B]: samples placed at t', evenly spaced in the global batch for an exact share."""
        share = self.params.boundary
        return ((batch_index + 1) * share).floor() > (batch_index * share).floor()

    def noisy_times(self, u: Tensor, batch_index: Tensor, spec: TeacherSpec) -> Tensor:
        """Noise levels t of the second stage from uniforms u [B], float64 [B]."""
        import torch
        from scipy.special import stdtr, stdtrit

        p = self.params
        ends = torch.tensor([p.transition, spec.sigma_max], dtype=torch.float64).log()
        below, above = stdtr(p.df, ((ends - p.mean) / p.std).numpy())
        place = torch.from_numpy(stdtrit(p.df, below + u.numpy() * (above - below)))
        t = (p.mean + p.std * place).exp().clamp(p.transition, spec.sigma_max)
        return t.masked_fill(self.at_boundary(batch_index), p.transition)

    def _truncated(self, student: StudentInTraining, teacher: Teacher, batch: Batch) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.solver import per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        p, x0, spec, device = self.params, batch.x0, teacher.spec, batch.x0.device
        u = uniform(batch.seed, "noisy time", batch.step, batch.host_batch_index)[:, 0]
        t = self.noisy_times(u, batch.host_batch_index, spec)
        r = p.nearer(t, batch.step, spec)
        mine, theirs = (
            sent(rows.nonzero()[:, 0], device)
            for rows in (r >= p.transition, (r < p.transition) & (r > spec.sigma_min))
        )
        at_end = sent(self.at_boundary(batch.host_batch_index), device)
        t, r = sent(t, device), sent(r, device)
        clean = torch.full_like(t, spec.sigma_min)
        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        with torch.no_grad():
            x_r = x0 + per_sample(r, x0) * eps
            target_jump = jump_rows(self.frozen, x_r, r, clean, theirs, batch.labels)
            if len(mine):
                seen = jump_rows(student, x_r, r, clean, mine, batch.labels)
                target_jump = torch.where(per_sample(r, x0) >= p.transition, seen, target_jump)
        estimate = student.jump(x0 + per_sample(t, x0) * eps, t, clean, batch.labels)
        found = summed_distance(p.distance, estimate, target_jump, self.constant(spec))
        part = torch.where(at_end, p.boundary_weight / (p.boundary or 1.0), 1 / (1 - p.boundary))
        w = part * weights(p.weighting, t, r, spec.sigma_data)
        return (w.to(found.dtype) * found).mean()
