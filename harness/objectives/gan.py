"""The adversarial loss of CTM (Kim et al. 2024, section 4), added to any objective of the harness.

From step `start`, jumps to clean data are also trained against a projected discriminator; all else
is as in the objective that a class here extends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from harness.api import (
    Batch,
    Extractor,
    Objective,
    Params,
    StudentInTraining,
    Teacher,
    TeacherSpec,
    Trained,
    create,
    located,
    register_objective,
)
from harness.objectives.bcm import BidirectionalConsistency
from harness.objectives.cd import ConsistencyDistillation
from harness.objectives.ctm import ConsistencyTrajectory
from harness.objectives.ect import ConsistencyTuning
from harness.objectives.meanflow import MeanFlow
from harness.objectives.scm import ContinuousConsistency
from harness.objectives.tcm import TruncatedConsistency

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Preconditioning

#: bounds of the adaptive weight of the generator's loss, as in the authors' code
WEIGHT_LIMITS = {"gan": (0.01, 10.0)}
#: nodes of the Karras grid from which generated samples start, if the objective has no grid
NODES = 18


class GanParams(Params):
    """Parameters of the adversarial stage, in addition to those of the objective.

    - `start`: the training step at which it begins;
    - `features`: the extractor whose feature maps the discriminator takes; `feature_weights`: path
      of its weights, if they are not found otherwise;
    - `width`: channels of the discriminator's finest mixture; `critic_lr`: learning rate of its
      optimizer, RAdam with betas (0.5, 0.9);
    - `fake`: the generated sample: `jump`, f(x_t, t -> sigma_min), or `projected`, the estimate of
      `ctm`, f_ema(f(x_t, t -> s), s -> sigma_min), which trains jumps to all s.
    """

    start: int = Field(default=0, ge=0)
    features: str = "lite0-imagenet"
    feature_weights: str | None = located(default=None)
    width: int = Field(default=64, ge=4, multiple_of=2)
    critic_lr: float = Field(default=2e-3, gt=0)
    fake: Literal["jump", "projected"] = "jump"


class Adversarial(Objective):
    """Adds a generator loss l for the student and a hinge loss h for the discriminator D:

        l = -E[D(fake)],    h = E[max(0, 1 - D(y))] + E[max(0, 1 + D(sg fake))]

    with y the clean data of the batch. The adaptive weight of l equates its gradient norm at the
    last layer to that of the first term, within 0.01..10. t is uniform on the objective's grid, or
    on a Karras grid of 18 nodes, and s on the nodes below, as with `gan_specific_time`. The
    authors' code alternates l and h, with two feature networks and augmented images; here every
    step trains both on the same fakes, with one feature network and no augmentation.
    """

    weight_limits = WEIGHT_LIMITS

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._extractor: Extractor | None = None

    @property
    def extractor(self) -> Extractor:
        """The extractor whose feature maps the discriminator takes."""
        if self._extractor is None:
            path = self.params.feature_weights
            given = {"weights": path} if path else {}
            self._extractor = create("extractor", self.params.features, given)
        return self._extractor

    def ready(self) -> Self:
        """See `Objective.ready`; checks that the extractor has its weights and feature maps."""
        import torch

        self.extractor.ready().maps(torch.zeros(1, 3, 8, 8))
        return super().ready()

    def unsuited(self, spec: TeacherSpec, precond: Preconditioning) -> str:
        """See `Objective.unsuited`; a discriminator needs images."""
        if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
            return (
                f"{self.name!r} has a discriminator that sees grey or RGB images, not samples of"
                f" {list(spec.shape)}"
            )
        return super().unsuited(spec, precond)

    def unscheduled(self, steps: int) -> str:
        """See `Objective.unscheduled`."""
        if self.params.start < steps:
            return super().unscheduled(steps)
        return (
            f"its adversarial stage starts at step {self.params.start}, and budgets end at {steps}:"
            " give a smaller start"
        )

    def modules(self, spec: TeacherSpec) -> Mapping[str, Trained]:
        """See `Objective.modules`; those of the objective, and the discriminator."""
        import torch

        from harness.core.projected import Discriminator

        maps = self.extractor.ready().maps(torch.zeros(1, *spec.shape))
        shapes = [(found.shape[1], found.shape[2]) for found in maps]
        self.discriminator = Discriminator(shapes, self.params.width)
        critic = Trained(
            self.discriminator, "critic", "radam", self.params.critic_lr, betas=(0.5, 0.9)
        )
        return {**super().modules(spec), "discriminator": critic}

    def terms(
        self, student: StudentInTraining, target: StudentInTraining, teacher: Teacher, batch: Batch
    ) -> Mapping[str, Callable[[], Tensor]]:
        """See `Objective.terms`."""
        from harness.core.projected import fooling, hinge

        terms = super().terms(student, target, teacher, batch)
        if batch.step < self.params.start:
            return terms
        made: list[Tensor] = []

        def generator() -> Tensor:
            fake = self.fake(student, target, teacher, batch)
            made.append(fake.detach())
            return fooling(self._logits(fake))

        def critic() -> Tensor:
            import torch

            logits = self._logits(torch.cat([batch.x0, made.pop().to(batch.x0.dtype)]))
            return hinge(logits[: len(batch.x0)], logits[len(batch.x0) :])

        return {**terms, "gan": generator, "critic": critic}

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float | None:
        """See `Objective.evaluations`; discriminator and feature network are not counted."""
        stated = super().evaluations(spec, step)
        if stated is None or step < self.params.start:
            return stated
        last = len(self._grid(spec)) - 1
        moving = sum(1 - 1 / m for m in range(1, last + 1)) / last
        return stated + 3 + 2 * moving * (self.params.fake == "projected")

    def fake(
        self, student: StudentInTraining, target: StudentInTraining, teacher: Teacher, batch: Batch
    ) -> Tensor:
        """Samples generated by the student from noised data of the batch, [B, *shape]."""
        import torch

        from harness.core.random import integers, normal
        from harness.core.solver import per_sample
        from harness.core.transfer import sent
        from harness.objectives.jumps import jump_rows

        x0, labels, batch_index = batch.x0, batch.labels, batch.host_batch_index
        grid = self._grid(teacher.spec)
        last = len(grid) - 1
        i = integers(batch.seed, "fake time", batch.step, batch_index, 0, last - 1)
        j = torch.full_like(i, last)
        if self.params.fake == "projected":
            j = integers(batch.seed, "fake end", batch.step, batch_index, i + 1, last)
        t, s = (sent(grid[k], x0.device) for k in (i, j))
        noisy = sent((j < last).nonzero()[:, 0], x0.device)
        clean = torch.full_like(s, teacher.spec.sigma_min)
        eps = normal(
            batch.seed, "fake noise", batch.step, batch.batch_index, x0.shape[1:], x0.dtype
        )
        found = student.jump(x0 + per_sample(t, x0) * eps, t, s, labels)
        return jump_rows(target, found, s, clean, noisy, labels)

    def _grid(self, spec: TeacherSpec) -> Tensor:
        from harness.core.schedule import karras

        own = self.trained_times(spec)
        return karras(NODES, spec.sigma_min, spec.sigma_max, 7.0) if own is None else own

    def _logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.discriminator(self.extractor.to(images.device).maps(images))
        return found


@register_objective("ctm-gan")
class AdversarialTrajectory(Adversarial, ConsistencyTrajectory):
    """`ctm` with CTM's adversarial stage, applied to projected jumps, as published."""

    class Params(GanParams, ConsistencyTrajectory.Params):
        """Those of `ctm` and of the stage."""

        fake: Literal["jump", "projected"] = "projected"


@register_objective("cd-gan")
class AdversarialDistillation(Adversarial, ConsistencyDistillation):
    """`cd` with CTM's adversarial stage."""

    class Params(GanParams, ConsistencyDistillation.Params):
        """Those of `cd` and of the stage."""


@register_objective("ect-gan")
class AdversarialTuning(Adversarial, ConsistencyTuning):
    """`ect` with CTM's adversarial stage."""

    class Params(GanParams, ConsistencyTuning.Params):
        """Those of `ect` and of the stage."""


@register_objective("tcm-gan")
class AdversarialTruncated(Adversarial, TruncatedConsistency):
    """`tcm` with CTM's adversarial stage."""

    class Params(GanParams, TruncatedConsistency.Params):
        """Those of `tcm` and of the stage."""


@register_objective("scm-gan")
class AdversarialContinuous(Adversarial, ContinuousConsistency):
    """`scm` with CTM's adversarial stage."""

    class Params(GanParams, ContinuousConsistency.Params):
        """Those of `scm` and of the stage."""


@register_objective("meanflow-gan")
class AdversarialMeanFlow(Adversarial, MeanFlow):
    """`meanflow` with CTM's adversarial stage."""

    class Params(GanParams, MeanFlow.Params):
        """Those of `meanflow` and of the stage."""


@register_objective("bcm-gan")
class AdversarialBidirectional(Adversarial, BidirectionalConsistency):
    """`bcm` with CTM's adversarial stage."""

    class Params(GanParams, BidirectionalConsistency.Params):
        """Those of `bcm` and of the stage."""
