"""`Architecture`, the base class of backbone plugins: parameters, sample shapes, construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.api.plugin import Plugin

if TYPE_CHECKING:
    from harness.api.teacher import TeacherSpec
    from harness.backbones.base import Backbone


class Architecture(Plugin):
    """A student network architecture, selected by a grid's `backbone`. Subclasses define `build`.

    The network is a `harness.backbones.base.Backbone`, a torch module with inputs c_in(t) x,
    c_noise(t) and c_noise(s). `python -m harness check backbone NAME` checks one.
    """

    #: whether `student.dropout`, `s_branch` and `s_init` can be set, see `Backbone.adapt`
    adapts: ClassVar[bool] = False

    def unfit(self, shape: tuple[int, ...]) -> str:
        """Reason why it cannot be built for samples of `shape` (no batch axis); empty if it can."""
        return ""

    def build(self, spec: TeacherSpec) -> Backbone:
        """The network for a teacher's samples, classes and sigma_data, on the CPU, in float32.

        Weights are drawn from torch's global generator, which the caller has seeded; the branch
        for s starts with zero output.
        """
        raise self.lacks("build(self, spec)")
