"""Consistency tuning and training: the loss uses no teacher, which only initialises the student.

Easy consistency tuning (Geng et al. 2024, arXiv 2406.14548) and improved consistency training (Song
& Dhariwal 2023, arXiv 2310.14189), in their notation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from harness.api import (
    Batch,
    Objective,
    StudentInTraining,
    Teacher,
    TeacherSpec,
    register_objective,
)
from harness.objectives.consistency import (
    DistanceName,
    MappingParams,
    Weighting,
    discrete_lognormal,
    ict_constant,
    lognormal,
    summed_distance,
    weights,
)

if TYPE_CHECKING:
    from torch import Tensor


class TuningParams(MappingParams):
    """How pairs r < t are drawn, and how their distance is measured.

    - `schedule: ect`: t is log-normal with `P_mean` and `P_std`, truncated to sigma_min..sigma_max,
      and r a function of t that approaches it in stages (see `MappingParams`);
    - `schedule: ict`: r, t are neighbours on a Karras grid of N(k) = min(s0 2^floor(k/K'), s1) + 1
      nodes at step k, K' = floor(total / (floor(log2(s1/s0)) + 1)), drawn by the mass of their
      interval under the same log-normal;
    - `total`: number of training steps over which `ict` increases N; no budget may be larger;
    - `distance`, summed over coordinates; `c`: constant of the pseudo-Huber distance, by default 0
      for `ect` (the norm) and 0.00054 sqrt(d) for `ict`;
    - `weighting`: w(t, r), see harness/objectives/consistency.py; `gap` is 1/(t - r).
    """

    schedule: Literal["ect", "ict"] = "ect"
    P_mean: float = -1.1
    P_std: float = Field(default=2.0, gt=0)
    s0: int = Field(default=10, ge=2)
    s1: int = Field(default=1280, ge=2)
    rho: float = Field(default=7.0, gt=0)
    total: int | None = Field(default=None, ge=1)
    distance: DistanceName = "pseudo-huber"
    c: float | None = Field(default=None, ge=0)
    weighting: Weighting = "gap"

    @model_validator(mode="after")
    def _of_a_length(self) -> Self:
        if (self.schedule == "ict") != (self.total is not None):
            raise ValueError(
                "schedule: ict grows over `total` steps: say how many the training has"
                if self.total is None
                else "total goes with schedule: ict"
            )
        if self.s1 < self.s0:
            raise ValueError(f"s1: {self.s1} is less than s0, {self.s0}, from where N grows")
        return self


@register_objective("ect")
class ConsistencyTuning(Objective):
    """Consistency tuning or training, without a teacher: w(t, r) d( f(x_t, t), sg f(x_r, r) ).

    x_t = y + t eps and x_r = y + r eps with the same eps. f jumps to sigma_min with the student's
    own weights on both sides. If r is sigma_min, the target is x_r itself and costs no pass. With
    `schedule: ict` and `train.init: random` this is consistency training (iCT).
    """

    Params = TuningParams
    samplers = ("stochastic",)

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        return {"ect": lambda: self._tuning(student, teacher, batch)}

    def unscheduled(self, steps: int) -> str:
        """See `Objective.unscheduled`."""
        total = self.params.total
        if total is None or steps <= total:
            return ""
        return f"its schedule ends at step {total}, and budgets go to {steps}: give a larger total"

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float:
        """See `Objective.evaluations`; targets at r = sigma_min cost no pass."""
        import torch

        u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
        return 3 + float((self.times(u, step, spec)[1] > spec.sigma_min).double().mean())

    def times(self, u: Tensor, step: int, spec: TeacherSpec) -> tuple[Tensor, Tensor]:
        """(t, r) of training step `step` from uniforms u [B], float64 [B] each."""
        from harness.core.schedule import karras

        p = self.params
        if p.schedule == "ect":
            t = lognormal(u, p.P_mean, p.P_std, spec.sigma_min, spec.sigma_max)
            return t, p.nearer(t, step, spec)
        grid = karras(self.nodes(step), spec.sigma_min, spec.sigma_max, p.rho).flip(0)
        mass = discrete_lognormal(grid, p.P_mean, p.P_std).cumsum(0)
        k = (mass < u[:, None]).sum(1).clamp_max(len(mass) - 1)
        return grid[k + 1], grid[k]

    def constant(self, spec: TeacherSpec) -> float:
        """The constant c of the pseudo-Huber distance."""
        if self.params.c is not None:
            return float(self.params.c)
        return ict_constant(spec.shape) if self.params.schedule == "ict" else 0.0

    def nodes(self, step: int) -> int:
        """N(k), the number of grid nodes of iCT's schedule at step k."""
        p = self.params
        stage = max(1, math.floor((p.total or 1) / (math.floor(math.log2(p.s1 / p.s0)) + 1)))
        return int(min(p.s0 * 2 ** (step // stage), p.s1) + 1)

    def _tuning(self, student: StudentInTraining, teacher: Teacher, batch: Batch) -> Tensor:
        import torch

        from harness.core.random import normal, uniform
        from harness.core.solver import per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        p, x0, spec, device = self.params, batch.x0, teacher.spec, batch.x0.device
        u = uniform(batch.seed, "time", batch.step, batch.host_batch_index)[:, 0]
        on_host = self.times(u, batch.step, spec)
        moving = sent((on_host[1] > spec.sigma_min).nonzero()[:, 0], device)
        t, r = (sent(level, device) for level in on_host)
        clean = torch.full_like(t, spec.sigma_min)
        eps = normal(batch.seed, "noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype)
        with torch.no_grad():
            x_r = x0 + per_sample(r, x0) * eps
            target_jump = jump_rows(student, x_r, r, clean, moving, batch.labels)
        estimate = student.jump(x0 + per_sample(t, x0) * eps, t, clean, batch.labels)
        found = summed_distance(p.distance, estimate, target_jump, self.constant(spec))
        return (weights(p.weighting, t, r, spec.sigma_data).to(found.dtype) * found).mean()
