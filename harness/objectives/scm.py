"""Continuous-time consistency models: the student's own derivative along the ODE is the target."""

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
    Trained,
    register_objective,
)
from harness.objectives.consistency import lognormal

if TYPE_CHECKING:
    from torch import Tensor


class SCMParams(Params):
    """Defaults as in FastGen's sCM, after Lu & Song 2024.

    - `velocity`: dx/dlog t of the ODE, from the teacher (distillation, sCD) or from the data,
      x_t - y (sCT);
    - `P_mean`, `P_std`: mean and deviation of log t, normal, truncated to sigma_min..sigma_max;
    - `warmup`: steps over which r grows linearly to 1;
    - `c`: constant of the tangent normalisation g / (|g| + c), |g| being the root mean square over
      coordinates, or with `norm: l2` the Euclidean norm;
    - `learned`: whether the weighting lv(t) is learned; otherwise it is 0;
    - `prior`: whether w(t) is 1/t; otherwise it is 1.
    """

    velocity: Literal["teacher", "data"] = "teacher"
    P_mean: float = -1.0
    P_std: float = Field(default=1.4, gt=0)
    warmup: int = Field(default=10_000, ge=0)
    c: float = Field(default=0.1, gt=0)
    norm: Literal["rms", "l2"] = "rms"
    learned: bool = True
    prior: bool = True


@register_objective("scm")
class ContinuousConsistency(Objective):
    """Continuous-time consistency (sCM): w(t) e^-lv(t) | F - sg F - g/(|g| + c) |^2 + lv(t).

    arXiv 2410.11081; |.|^2 is the mean over coordinates. In TrigFlow's coordinates, t = sd
    tan(theta), x^ = x cos(theta), f = cos(theta) x^ - sin(theta) sd F, the tangent is
    g = cos(theta) df/dtheta along the ODE, in two parts:

        g = -cos^2 (sd F - dx^/dtheta) - r cos sin (x^ + sd dF/dtheta),    r = min(1, step/warmup).

    Here f = a(t) x^ + out(t) F is any preconditioning's jump to sigma_min, and both parts follow
    from its skip and out: g = (R_t/t) [a dx^ + d(out) F + r (d(a) x^ + out dF)] along d(log t),
    with R_t = sqrt(t^2 + sd^2). The squared error is that of (f - sg f)/c_out + g/(|g| + c), c_out
    = sd t/R_t, for all preconditionings; for TrigFlow (`trigflow`, or `ctm`) it is the loss above.
    """

    Params = SCMParams
    samplers = ("stochastic",)
    differentiates = True

    def modules(self, spec: TeacherSpec) -> Mapping[str, Trained]:
        """See `Objective.modules`; the learned weighting, with the student's learning rate."""
        if not self.params.learned:
            return {}
        from harness.core.weighting import LearnedWeighting

        self.weighting: Callable[[Tensor], Tensor] = LearnedWeighting()
        return {"weighting": Trained(self.weighting)}

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        return {"scm": lambda: self._continuous(student, teacher, batch)}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`."""
        return 4 + (self.params.velocity == "teacher")

    def _continuous(self, student: StudentInTraining, teacher: Teacher, batch: Batch) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.solver import per_sample

        p, x0, spec = self.params, batch.x0, teacher.spec
        u = uniform(batch.seed, "time", batch.step, batch.batch_index)[:, 0]
        t = lognormal(u, p.P_mean, p.P_std, spec.sigma_min, spec.sigma_max)
        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        x_t = x0 + per_sample(t, x0) * eps
        clean = x0
        if p.velocity == "teacher":
            with torch.no_grad():
                clean = teacher.denoise(x_t, t, batch.labels)
        end = torch.full_like(t, spec.sigma_min)
        value, carried, changed = student.jump_tangent(x_t, t, end, x_t - clean, t, batch.labels)
        r = min(1.0, batch.step / p.warmup) if p.warmup else 1.0
        radius = (t * t + spec.sigma_data**2).sqrt()
        kind = torch.promote_types(x0.dtype, torch.float32)
        tangent = per_sample(radius / t, x0) * (carried + r * changed).to(kind)
        flat = tangent.flatten(1)
        size = flat.square().mean(1).sqrt() if p.norm == "rms" else flat.norm(dim=1)
        moved = (value - value.detach()) / per_sample(t * spec.sigma_data / radius, x0)
        error = (moved.to(kind) + tangent / per_sample(size + p.c, tangent)).flatten(1)
        loss = error.square().mean(1)
        if p.prior:
            loss = loss / t.to(kind)
        if p.learned:
            log_variance = self.weighting(t)
            loss = loss * (-log_variance).exp() + log_variance
        return loss.mean()
