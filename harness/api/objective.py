"""Losses: what they may ask of a student, and what they see of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from harness.api.plugin import Plugin
from harness.api.teacher import Teacher, TeacherSpec
from harness.core.protocols import StudentLike
from harness.core.tangent import JumpTangent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api.basis import Basis
    from harness.api.preconditioning import Preconditioning

#: what an objective may need of a strategy, and how its lack is told
NEEDS = {
    "tangent": "is not tangent: at s = t its network does not give the teacher's velocity",
    "upward": "is not defined for s > t (`Preconditioning.upward`)",
    "banded": "has no bands of a basis (`Preconditioning.banded`)",
}


class StudentInTraining(StudentLike, Protocol):
    """What an objective may ask of it beside that."""

    @property
    def basis(self) -> Basis | None:
        """Of a strategy that gives coefficients by band, see `Preconditioning.basis`."""

    def jump_tangent(
        self, x: Tensor, t: Tensor, s: Tensor, dx: Tensor, dt: Tensor, labels: Tensor | None = None
    ) -> JumpTangent:
        """f(x, t, s) and its derivative along dx [B, *shape] and dt, float64 [B], s held fixed.

        By forward-mode differentiation of network and coefficients: a second forward pass.
        """

    def conditioning(self, t: Tensor) -> Tensor:
        """The number c_noise(t) that tells the network a noise level, float32 [B]."""


@dataclass(frozen=True)
class Trained:
    """A module that an objective trains beside the student: a discriminator, a learned weighting.

    `by` names the term that trains it and nothing else; None: every term that reaches it does, and
    the student as well. `optimizer` and `lr` are those of the grid's `train` section unless given.
    """

    module: nn.Module
    by: str | None = None
    optimizer: Literal["radam", "adam", "adamw"] | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a training batch.

    `sample_index` [B] says which samples of the training run `x0` [B, *shape] are, `batch_index`
    [B] which of this `step`'s global batch: every random draw is a function of it.
    `host_batch_index` is the same on the CPU, for draws that decide how much is computed.
    """

    x0: Tensor
    labels: Tensor | None
    sample_index: Tensor
    batch_index: Tensor
    step: int
    seed: int
    host_batch_index: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.host_batch_index is None:
            object.__setattr__(self, "host_batch_index", self.batch_index.cpu())


class Objective(Plugin):
    """A loss, given as terms whose gradients the training loop combines.

    `terms` returns {name: loss}; with `adaptive` set, every term but the first is scaled so that
    its gradient at the network's last layer is as long as the first one's (VQGAN's rule, used by
    CTM), measured on the global batch, or on `adaptive_batch` samples at a time.
    """

    adaptive: bool = False
    adaptive_batch: int | None = None
    #: terms that are scaled so in any case, and between which weights
    weight_limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    #: kinds of sampler (harness.core.sampler) whose jumps it trains, the default one first; another
    #: is measured only where a grid names it, and noted in its tables
    samplers: ClassVar[tuple[str, ...]] = ("exact", "gamma", "stochastic")
    #: what it needs of a strategy, of the keys of `NEEDS`: a cell with another one is skipped
    needs: tuple[str, ...] = ()
    #: whether it differentiates the student (`jump_tangent`), which rules out
    #: `train.compile`
    differentiates: ClassVar[bool] = False
    #: see `freezes_at`; the harness sets it
    frozen: StudentInTraining

    def trained_times(self, spec: TeacherSpec) -> Tensor | None:
        """Noise levels that students are trained at, float64 [N], sigma_max to sigma_min.

        None where they are continuous: then there are no `trained` times to sample at.
        """
        return None

    def terms(
        self,
        student: StudentInTraining,
        target: StudentInTraining,
        teacher: Teacher,
        batch: Batch,
    ) -> Mapping[str, Callable[[], Tensor]]:
        """Return the loss terms as callables, each giving a scalar with its graph, mean over B."""
        raise self.lacks("terms(self, student, target, teacher, batch)")

    def modules(self, spec: TeacherSpec) -> Mapping[str, Trained]:
        """Modules that are trained beside the student, by name; keep them for `terms`.

        Called once, before the first step, with torch's generator seeded by the run. The harness
        moves them to the device, steps their optimizers and saves both in checkpoints.
        """
        return {}

    def freezes_at(self) -> int | None:
        """The step from which on `self.frozen` is the target as it was then; None: never."""
        return None

    def unsuited(self, spec: TeacherSpec, precond: Preconditioning) -> str:
        """Why students of a teacher in this strategy cannot be trained by it; empty if they can.

        Such cells are skipped, with this reason. `precond` is not calibrated yet.
        """
        for need in self.needs:
            if not getattr(precond, need):
                return f"precond {precond.name!r} {NEEDS[need]}, which {self.name!r} needs"
        return ""

    def unscheduled(self, steps: int) -> str:
        """Why its schedule does not suit a training of that length; empty if it does.

        A grid with such a cell is refused.
        """
        return ""

    def ready(self) -> Self:
        """Find the files that it needs, before anything is trained; returns self.

        Raises:
            ConfigError: they are not there, or not the right ones; the sentence says what to do.
        """
        return self

    def solver_steps(self) -> Mapping[int, float]:
        """Numbers h of the teacher's solver steps in a training step, with their probabilities.

        Empty if it solves nothing. `bench` measures a step at several h.
        """
        return {}

    def at_solver_steps(self, h: int) -> Self:
        """The same objective, its modules included, with that number of solver steps each time."""
        return self

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float | None:
        """What that step costs on average, in forward passes of the network for the whole batch.

        The teacher is taken for a network of the same size. A backward pass counts 2 where weights
        learn and 1 where only the gradient of the input is needed, a derivative along a direction
        1. None: it does not say, and `bench` only measures.
        """
        return None


def misfit_of_groups(group: int, share: int) -> str:
    """Why a process cannot measure an adaptive weight on `group` of its samples at a time."""
    return (
        f"adaptive_batch: {group} does not divide the {share} samples that each process gets of the"
        " global batch; use a divisor of it, or another number of processes"
    )
