"""The residual MLP for vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import Architecture, Params, TeacherSpec, register_backbone

if TYPE_CHECKING:
    from harness.backbones.base import Backbone


class MLPParams(Params):
    """`depth` residual blocks of `width` units."""

    width: int = Field(default=128, ge=8, multiple_of=2)
    depth: int = Field(default=3, ge=1)


@register_backbone("mlp")
class MLPArchitecture(Architecture):
    """Residual MLP for vectors, modulated by embeddings of t, s and the class."""

    Params = MLPParams

    def unfit(self, shape: tuple[int, ...]) -> str:
        """See `Architecture.unfit`."""
        return "" if len(shape) == 1 else "it takes vectors"

    def build(self, spec: TeacherSpec) -> Backbone:
        """See `Architecture.build`."""
        from harness.backbones.mlp import MLP

        p, (dim,) = self.params, spec.shape
        sizes = {"width": p.width, "depth": p.depth, "classes": spec.classes}
        return MLP(dim, sigma_data=spec.sigma_data, **sizes)
