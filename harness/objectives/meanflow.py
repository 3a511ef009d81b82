"""MeanFlow (arXiv 2505.13447): match the average velocity of a jump, from its own derivative."""

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

if TYPE_CHECKING:
    from torch import Tensor


class MeanFlowParams(Params):
    """Defaults as in the authors' code for CIFAR-10 in pixels.

    - `velocity`: v of the ODE, from the teacher (distillation) or from the data, e - y;
    - `pairs`: logit tau and logit rho are normal with `P_mean_*`, `P_std_*` (t for tau, r for rho);
      rho is limited to tau (`clipped`) or the two are `sorted`;
    - `ratio`: share of samples whose rho is drawn; the others have rho = tau;
    - `p`, `eps`: exponent and offset of the adaptive weight.
    """

    velocity: Literal["teacher", "data"] = "teacher"
    pairs: Literal["clipped", "sorted"] = "clipped"
    P_mean_t: float = -0.6
    P_std_t: float = Field(default=1.6, gt=0)
    P_mean_r: float = -4.0
    P_std_r: float = Field(default=1.6, gt=0)
    ratio: float = Field(default=0.75, ge=0, le=1)
    p: float = Field(default=0.75, ge=0, le=1)
    eps: float = Field(default=1e-3, gt=0)


@register_objective("meanflow")
class MeanFlow(Objective):
    """MeanFlow: || u - sg(v - (tau - rho) du/dtau) ||^2 / sg(|| . ||^2 + eps)^p, arXiv 2505.13447.

    On the straight path z = (1 - tau) y + tau e = x_t/(1 + t), tau = t/(1 + t), a jump from t to s
    has the average velocity u = (z_t - z_s)/(tau - rho), rho = s/(1 + s), and along the ODE
    v - (tau - rho) du/dtau = u + (df/dtau)/(1 + s). So for any preconditioning's jump f what is
    squared is

        u - sg(...) = -(1 + t) [ (f - sg f)/(t - s) + (1 + t)/(1 + s) df/dt ],

    summed over coordinates. At s = t, u is the velocity of the implied denoiser D, and the error is
    (1 + t)/t (D - D_teacher) up to its sign, without a derivative.
    """

    Params = MeanFlowParams
    needs = ("tangent",)
    differentiates = True

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        return {"meanflow": lambda: self._mean_velocity(student, teacher, batch)}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`; samples with s = t need no derivative."""
        import torch

        normal = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
        z_t, z_r = (each.flatten() for each in torch.meshgrid(normal, normal, indexing="ij"))
        t, s = self.levels(z_t, z_r, torch.ones_like(z_t), spec)
        share = float((s < t).double().mean()) * self.params.ratio
        return 3 + share + (self.params.velocity == "teacher")

    def levels(
        self, z_t: Tensor, z_r: Tensor, u: Tensor, spec: TeacherSpec
    ) -> tuple[Tensor, Tensor]:
        """(t, s) with s <= t, float64 [B] each, from normals z_t, z_r and a uniform u."""
        import torch

        p = self.params
        # the logit of tau = t/(1 + t) is log t
        t = (p.P_mean_t + p.P_std_t * z_t).exp().clamp(spec.sigma_min, spec.sigma_max)
        s = (p.P_mean_r + p.P_std_r * z_r).exp().clamp(spec.sigma_min, spec.sigma_max)
        if p.pairs == "sorted":
            t, s = torch.maximum(t, s), torch.minimum(t, s)
        return t, torch.where(u < 1 - p.ratio, t, torch.minimum(s, t))

    def _mean_velocity(self, student: StudentInTraining, teacher: Teacher, batch: Batch) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.rows import of_batch
        from harness.core.solver import per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import padded_on_gpu

        p, x0, labels, device = self.params, batch.x0, batch.labels, batch.x0.device
        draw = (batch.step, batch.host_batch_index)
        z_t, z_r = (
            normal(batch.seed, purpose, *draw, (), torch.float64) for purpose in ("time", "end")
        )
        u = uniform(batch.seed, "equal times", *draw)[:, 0]
        on_host = self.levels(z_t, z_r, u, teacher.spec)
        jumping = (on_host[1] < on_host[0]).nonzero()[:, 0]
        staying = (on_host[1] >= on_host[0]).nonzero()[:, 0]
        t, s = (sent(level, device) for level in on_host)
        noise = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        x = x0 + per_sample(t, x0) * noise
        clean = x0
        if p.velocity == "teacher":
            with torch.no_grad():
                clean = teacher.denoise(x, t, labels)

        def of(rows: Tensor, *values: Tensor | None) -> list[Tensor | None]:
            return [None if value is None else value[rows] for value in values]

        errors = []
        for rows, jumps in ((sent(jumping, device), True), (sent(staying, device), False)):
            if not len(rows):
                continue
            asked = padded_on_gpu(rows, x)
            x_a, clean_a, t_a, s_a, labels_a = of(asked, x, clean, t, s, labels)
            with of_batch(asked):
                if jumps:
                    dx = x_a - clean_a
                    value, *parts = student.jump_tangent(x_a, t_a, s_a, dx, t_a, labels_a)
                    speed = per_sample((1 + t_a) / ((1 + s_a) * t_a), x_a) * sum(parts)
                    error = (value - value.detach()) / per_sample(t_a - s_a, x_a) + speed
                else:
                    error = student.denoise(x_a, t_a, labels_a) - clean_a
                    error = error / per_sample(t_a, x_a)
            errors.append((per_sample(1 + t_a, x_a) * error)[: len(rows)])
        kind = torch.promote_types(x0.dtype, torch.float32)
        total = torch.cat(errors).to(kind).flatten(1).square().sum(1)
        return (total / (total.detach() + p.eps) ** p.p).mean()
