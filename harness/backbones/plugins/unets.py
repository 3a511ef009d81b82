"""EDM's U-Nets for images: DDPM++ (`unet`), NCSN++ (`ncsnpp`) and ADM (`adm`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness.api import Architecture, Params, TeacherSpec, register_backbone

if TYPE_CHECKING:
    from harness.backbones.base import Backbone


class UNetParams(Params):
    """`channels` times each of `multipliers`, at one resolution after the other.

    `blocks` for each resolution, attention at the sides listed.
    """

    channels: int = Field(default=32, ge=8, multiple_of=4)
    multipliers: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        default_factory=lambda: [1, 2]
    )
    blocks: int = Field(default=1, ge=1)
    attention: list[int] = Field(default_factory=list)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class _UNet(Architecture):
    """Base class of the three U-Net plugins."""

    Params = UNetParams
    adapts = True

    def unfit(self, shape: tuple[int, ...]) -> str:
        """See `Architecture.unfit`."""
        if len(shape) != 3 or shape[1] != shape[2]:
            return "it takes square images"
        halved = len(self.params.multipliers) - 1
        if shape[-1] % 2**halved:
            return (
                f"images of side {shape[-1]} cannot be halved {halved} times; give fewer"
                " multipliers"
            )
        return ""

    def _sizes(self, spec: TeacherSpec) -> dict[str, Any]:
        """Arguments of EDM's classes."""
        p, (channels, side, _) = self.params, spec.shape
        return {
            "img_resolution": side,
            "in_channels": channels,
            "out_channels": channels,
            "label_dim": spec.classes,
            "model_channels": p.channels,
            "channel_mult": p.multipliers,
            "num_blocks": p.blocks,
            "attn_resolutions": p.attention,
            "dropout": p.dropout,
        }

    def _finished(self, net: Any, spec: TeacherSpec) -> Backbone:
        """Wrap the network in EDM's form and add the branch for s."""
        from harness.backbones.inner import EDM
        from harness.backbones.unet import UNetBackbone

        net.add_s_embedding()
        return UNetBackbone(net, EDM(sigma_data=spec.sigma_data), spec.shape[0])


@register_backbone("unet")
class DDPMpp(_UNet):
    """DDPM++ as in EDM, for images: positional embedding, standard encoder and decoder."""

    def build(self, spec: TeacherSpec) -> Backbone:
        """See `Architecture.build`."""
        from harness.backbones.song import SongUNet

        return self._finished(SongUNet(**self._sizes(spec)), spec)


@register_backbone("ncsnpp")
class NCSNpp(_UNet):
    """NCSN++ as in EDM, for images: Fourier embedding, residual encoder, smooth resampling."""

    def build(self, spec: TeacherSpec) -> Backbone:
        """See `Architecture.build`."""
        from harness.backbones.song import SongUNet

        net = SongUNet(
            **self._sizes(spec),
            embedding_type="fourier",
            channel_mult_noise=2,
            encoder_type="residual",
            resample_filter=[1, 3, 3, 1],
        )
        return self._finished(net, spec)


class ADMParams(UNetParams):
    """Parameters of all U-Nets; `head_channels`: channels of an attention head."""

    head_channels: int = Field(default=64, ge=1)


@register_backbone("adm")
class ADM(_UNet):
    """ADM (Dhariwal & Nichol 2021) as in EDM, for images: adaptive norms, attention heads."""

    Params = ADMParams

    def build(self, spec: TeacherSpec) -> Backbone:
        """See `Architecture.build`."""
        from harness.backbones.adm import DhariwalUNet

        net = DhariwalUNet(**self._sizes(spec), head_channels=self.params.head_channels)
        return self._finished(net, spec)
