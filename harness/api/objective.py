"""Losses: what they may ask of a student, and what they see of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from harness.api.plugin import Plugin
from harness.api.teacher import Teacher, TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor


class StudentLike(Protocol):
    """What an objective may ask of a student: jumps and a denoiser, never their coefficients."""

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s), [B, *shape]; t and s are float64 [B]."""

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser D(x, t), [B, *shape]."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a training batch.

    `numbers` are the global sample numbers behind `x0` [B, *shape]; `slots` their places in the
    global batch of this `step`, which index every random draw. `host_slots` are the slots on the
    CPU: draws that decide how much is computed are made there, lest the host wait for the device.
    """

    x0: Tensor
    labels: Tensor | None
    numbers: Tensor
    slots: Tensor
    step: int
    seed: int
    host_slots: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.host_slots is None:
            object.__setattr__(self, "host_slots", self.slots.cpu())


class Objective(Plugin):
    """A loss, given as terms whose gradients the training loop combines.

    `terms` returns {name: loss}; with `adaptive` set, every term but the first is scaled so that
    its gradient at the network's last layer is as long as the first one's (VQGAN's rule, used by
    CTM), measured on the global batch, or on `adaptive_batch` samples at a time.
    """

    adaptive: bool = False
    adaptive_batch: int | None = None
    #: kinds of sampler (harness.core.sampler) whose jumps it trains, the default one first; another
    #: is measured only where a grid names it, and noted in its tables
    samplers: ClassVar[tuple[str, ...]] = ("exact", "gamma", "stochastic")

    def trained_times(self, spec: TeacherSpec) -> Tensor | None:
        """Noise levels that students are trained at, float64 [N], sigma_max to sigma_min.

        None where they are continuous: then there are no `trained` times to sample at.
        """
        return None

    def terms(
        self, student: StudentLike, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Mapping[str, Callable[[], Tensor]]:
        """Return the loss terms as callables, each giving a scalar with its graph, mean over B."""
        raise self.lacks("terms(self, student, target, teacher, batch)")


def misfit_of_groups(group: int, share: int) -> str:
    """Why a process cannot measure an adaptive weight on `group` of its samples at a time."""
    return (
        f"adaptive_batch: {group} does not divide the {share} samples that each process gets of the"
        " global batch; use a divisor of it, or another number of processes"
    )
