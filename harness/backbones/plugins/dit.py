"""The diffusion transformer for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from harness.api import Architecture, Params, TeacherSpec, register_backbone

if TYPE_CHECKING:
    from harness.backbones.base import Backbone


class DiTParams(Params):
    """`depth` blocks of `width` units and `heads` heads over patches of side `patch`.

    The published sizes: S 384/12/6, B 768/12/12, L 1024/24/16, XL 1152/28/16 (width/depth/heads).
    """

    patch: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=8, multiple_of=4)
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> DiTParams:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} cannot be shared by {self.heads} heads")
        return self


@register_backbone("dit")
class DiTArchitecture(Architecture):
    """Diffusion transformer (Peebles & Xie 2023) for images: adaLN-zero blocks over patches."""

    Params = DiTParams

    def unfit(self, shape: tuple[int, ...]) -> str:
        """See `Architecture.unfit`."""
        if len(shape) != 3 or shape[1] != shape[2]:
            return "it takes square images"
        if shape[-1] % self.params.patch:
            return f"images of side {shape[-1]} cannot be cut into patches of {self.params.patch}"
        return ""

    def build(self, spec: TeacherSpec) -> Backbone:
        """See `Architecture.build`."""
        from harness.backbones.dit import DiT

        channels, side, _ = spec.shape
        return DiT(
            (channels, side, side),
            sigma_data=spec.sigma_data,
            classes=spec.classes,
            **self.params.model_dump(),
        )
