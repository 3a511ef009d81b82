"""A network for students as a plugin: its parameters, what samples it takes, how it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.api.plugin import Plugin

if TYPE_CHECKING:
    from harness.api.teacher import TeacherSpec
    from harness.backbones.base import Backbone


class Architecture(Plugin):
    """A network for students, by the name that a grid's `backbone` gives. Subclasses write `build`.

    The network is a `harness.backbones.base.Backbone`, a torch module that is shown c_in(t) x and
    told c_noise(t) and c_noise(s). `python -m harness check backbone NAME` checks one.
    """

    #: whether `student.dropout`, `s_branch` and `s_init` can be set, see `Backbone.adapt`
    adapts: ClassVar[bool] = False

    def unfit(self, shape: tuple[int, ...]) -> str:
        """Why it cannot be built for samples of a shape, without batch; empty if it can."""
        return ""

    def build(self, spec: TeacherSpec) -> Backbone:
        """The network for a teacher's samples, classes and sigma_data, on the CPU, in float32.

        Weights are drawn from torch's global generator, which the caller has seeded; the branch
        that reads s is silent.
        """
        raise self.lacks("build(self, spec)")
