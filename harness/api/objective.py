"""`Objective`, the base class of losses, and the student and batch that a loss receives."""

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

#: attribute of a preconditioning that an objective may require -> message if it is false
NEEDS = {
    "tangent": "is not tangent: at s = t its network does not give the teacher's velocity",
    "upward": "is not defined for s > t (`Preconditioning.upward`)",
    "banded": "has no bands of a basis (`Preconditioning.banded`)",
}


class StudentInTraining(StudentLike, Protocol):
    """The student as objectives see it: jumps, the implied denoiser, derivatives of jumps."""

    @property
    def basis(self) -> Basis | None:
        """The preconditioning's basis, or None; see `Preconditioning.basis`."""

    def jump_tangent(
        self, x: Tensor, t: Tensor, s: Tensor, dx: Tensor, dt: Tensor, labels: Tensor | None = None
    ) -> JumpTangent:
        """f(x, t, s) and its derivative along dx [B, *shape] and dt (float64 [B]), with s fixed.

        Forward-mode differentiation of network and coefficients; costs a second forward pass.
        """

    def conditioning(self, t: Tensor) -> Tensor:
        """c_noise(t), the noise conditioning of the network, float32 [B]."""


@dataclass(frozen=True)
class Trained:
    """A module that an objective trains beside the student: a discriminator, a learned weighting.

    With `by`, the loss term of that name trains this module alone, and no other term does. With
    None, it is trained with the student, by every term that depends on it. `optimizer` and `lr` are
    those of the grid's `train` section unless given.
    """

    module: nn.Module
    by: str | None = None
    optimizer: Literal["radam", "adam", "adamw"] | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Batch:
    """One process's share of a training batch: clean samples x0 [B, *shape] and labels or None.

    `sample_index` [B] numbers the samples over the whole training, `batch_index` [B] within the
    global batch of this `step`; random draws are functions of (seed, step, batch_index).
    `host_batch_index` is `batch_index` on the CPU, for draws that determine tensor sizes.
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

    `terms` returns {name: loss}. With `adaptive`, every term but the first is scaled so that the
    norm of its gradient at the network's last layer equals that of the first term (VQGAN's adaptive
    weight, used by CTM), measured on the global batch, or on `adaptive_batch` samples at a time.
    """

    adaptive: bool = False
    adaptive_batch: int | None = None
    #: term -> (lowest, highest) weight, for terms that are always scaled adaptively
    weight_limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    #: kinds of sampler (harness.core.sampler) whose jumps it trains, the default first; others are
    #: evaluated only if a grid names them, and marked in the tables
    samplers: ClassVar[tuple[str, ...]] = ("exact", "gamma", "stochastic")
    #: required properties of the preconditioning (keys of `NEEDS`); cells without them are skipped
    needs: tuple[str, ...] = ()
    #: whether it differentiates the student (`jump_tangent`), which rules out
    #: `train.compile`
    differentiates: ClassVar[bool] = False
    #: the frozen target network, see `freezes_at`; set by the training loop
    frozen: StudentInTraining

    def trained_times(self, spec: TeacherSpec) -> Tensor | None:
        """The discrete noise levels of training, float64 [N], from sigma_max down to sigma_min.

        None if training times are continuous; samplers with `@trained` times are then impossible.
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
        """The step at which a copy of the target is frozen as `self.frozen`; None: never."""
        return None

    def unsuited(self, spec: TeacherSpec, precond: Preconditioning) -> str:
        """Why it cannot train a student with this teacher and preconditioning; empty if it can.

        Such cells are skipped, and the reason is shown. `precond` is not calibrated yet.
        """
        for need in self.needs:
            if not getattr(precond, need):
                return f"precond {precond.name!r} {NEEDS[need]}, which {self.name!r} needs"
        return ""

    def unscheduled(self, steps: int) -> str:
        """Reason why its schedule does not fit a training of `steps` steps; empty if it does.

        A grid with such a cell is refused.
        """
        return ""

    def ready(self) -> Self:
        """Check before training that the files it needs are present and valid; returns self.

        Raises:
            ConfigError: a file is missing or is not the right one; the message says what to do.
        """
        return self

    def solver_steps(self) -> Mapping[int, float]:
        """{h: probability} of h teacher solver steps in one training step.

        Empty if it uses no ODE solver. `bench` times a training step at several h.
        """
        return {}

    def at_solver_steps(self, h: int) -> Self:
        """A copy with the number of solver steps fixed to h, sharing its modules."""
        return self

    def evaluations(self, spec: TeacherSpec, step: int = 0) -> float | None:
        """Mean cost of training step `step`, in forward passes of the network on the whole batch.

        The teacher counts as a network of the same size. A backward pass counts 2 if weights are
        trained and 1 if only the gradient of the input is needed; a directional derivative
        counts 1. None: unknown, and `bench` reports measurements only.
        """
        return None


def misfit_of_groups(group: int, share: int) -> str:
    """Error message if `group` (adaptive_batch) does not divide the `share` of each process."""
    return (
        f"adaptive_batch: {group} does not divide the {share} samples that each process gets of the"
        " global batch; use a divisor of it, or another number of processes"
    )
