"""The configuration of a checkpoint: EDM's constructor arguments, validated before use.

Defaults are those of EDM's constructors, because files record only the arguments that were passed.
The bounds prevent a damaged or malicious file from requesting a network that fits no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(ge=1, le=64)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Song(_Config):
    """Arguments of `SongUNet`."""

    model_type: Literal["SongUNet"] = "SongUNet"
    augment_dim: int = Field(default=0, ge=0, le=1024)
    model_channels: int = Field(default=128, ge=4, le=2048)
    channel_mult: list[Count] = Field(default=[1, 2, 2, 2], min_length=1, max_length=8)
    channel_mult_emb: Count = 4
    num_blocks: Count = 4
    attn_resolutions: list[int] = Field(default=[16], max_length=16)
    dropout: Fraction = 0.10
    label_dropout: Fraction = 0.0
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Count = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: list[Positive] = Field(default=[1, 1], min_length=2, max_length=16)


class Dhariwal(_Config):
    """Arguments of `DhariwalUNet`."""

    model_type: Literal["DhariwalUNet"] = "DhariwalUNet"
    augment_dim: int = Field(default=0, ge=0, le=1024)
    model_channels: int = Field(default=192, ge=4, le=2048)
    channel_mult: list[Count] = Field(default=[1, 2, 3, 4], min_length=1, max_length=8)
    channel_mult_emb: Count = 4
    num_blocks: Count = 3
    attn_resolutions: list[int] = Field(default=[32, 16, 8], max_length=16)
    dropout: Fraction = 0.10
    label_dropout: Fraction = 0.0
    # not EDM's: what OpenAI's U-Nets differ in
    scale_shift: bool = True
    head_channels: Count = 64
    group_channels: Count = 4
    label_s: bool = True


class EDMPrecond(_Config):
    """Arguments of `EDMPrecond`."""

    class_name: Literal["EDMPrecond"] = "EDMPrecond"
    sigma_min: float = Field(default=0.0, ge=0)
    sigma_max: float = Field(default=math.inf, gt=0)
    sigma_data: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    # not EDM's: OpenAI's networks are told 250 log(sigma)
    noise_scale: float = Field(default=0.25, gt=0, allow_inf_nan=False)

    def range(self) -> tuple[float, float]:
        """Noise range of the network: (lowest, highest)."""
        return self.sigma_min, self.sigma_max


class VPPrecond(_Config):
    """Arguments of `VPPrecond`."""

    class_name: Literal["VPPrecond"] = "VPPrecond"
    beta_d: float = Field(default=19.9, gt=0, le=100)
    beta_min: float = Field(default=0.1, gt=0, le=100)
    M: int = Field(default=1000, ge=2, le=10**6)
    epsilon_t: float = Field(default=1e-5, gt=0, lt=1)

    def range(self) -> tuple[float, float]:
        """See `EDMPrecond.range`."""
        from harness.backbones.levels import vp_sigma

        lowest, highest = (vp_sigma(t, self.beta_d, self.beta_min) for t in (self.epsilon_t, 1.0))
        return lowest, highest


class VEPrecond(_Config):
    """Arguments of `VEPrecond`."""

    class_name: Literal["VEPrecond"] = "VEPrecond"
    sigma_min: float = Field(default=0.02, gt=0)
    sigma_max: float = Field(default=100.0, gt=0, allow_inf_nan=False)

    def range(self) -> tuple[float, float]:
        """See `EDMPrecond.range`."""
        return self.sigma_min, self.sigma_max


class IDDPMPrecond(_Config):
    """Arguments of `iDDPMPrecond`."""

    class_name: Literal["iDDPMPrecond"] = "iDDPMPrecond"
    C_1: float = Field(default=0.001, ge=1e-6, lt=1)
    C_2: float = Field(default=0.008, ge=1e-6, lt=1)
    M: int = Field(default=1000, ge=2, le=10**5)

    def range(self) -> tuple[float, float]:
        """See `EDMPrecond.range`."""
        from harness.backbones.levels import iddpm_levels

        levels = iddpm_levels(self.C_1, self.C_2, self.M)
        return levels[-2], levels[0]


INNER: dict[str, type[_Config]] = {
    "EDMPrecond": EDMPrecond,
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": IDDPMPrecond,
}
NETWORKS: dict[str, type[_Config]] = {"SongUNet": Song, "DhariwalUNet": Dhariwal}
#: the network each preconditioner takes when its caller names none.
_DEFAULT_NETWORK = {
    "EDMPrecond": "DhariwalUNet",
    "VPPrecond": "SongUNet",
    "VEPrecond": "SongUNet",
    "iDDPMPrecond": "DhariwalUNet",
}


class NetworkConfig(_Config):
    """Image size, classes, preconditioner and network: all that is needed to build the network."""

    img_resolution: int = Field(ge=1, le=4096)
    img_channels: int = Field(ge=1, le=64)
    label_dim: int = Field(default=0, ge=0, le=10**6)
    use_fp16: bool = False
    inner: EDMPrecond | VPPrecond | VEPrecond | IDDPMPrecond = Field(discriminator="class_name")
    model: Song | Dhariwal = Field(discriminator="model_type")

    @model_validator(mode="after")
    def _halves(self) -> Self:
        levels = len(self.model.channel_mult)
        if self.img_resolution % 2 ** (levels - 1):
            raise ValueError(f"img_resolution {self.img_resolution} cannot be halved {levels - 1}x")
        return self

    @classmethod
    def from_arguments(
        cls, class_name: str, arguments: Mapping[str, Any]
    ) -> tuple[Self, list[str]]:
        """Make a configuration from a constructor's flat arguments; also return unknown names.

        Raises:
            ValueError: a value is missing or wrong; the message is one short phrase.
        """
        if class_name not in INNER:
            raise ValueError(f"unknown preconditioner class (known: {', '.join(INNER)})")
        model_type = arguments.get("model_type", _DEFAULT_NETWORK[class_name])
        if model_type not in NETWORKS:
            raise ValueError(f"unknown model_type (known: {', '.join(NETWORKS)})")
        inner, model = INNER[class_name], NETWORKS[model_type]
        parts: dict[str, dict[str, Any]] = {
            "inner": {"class_name": class_name},
            "model": {"model_type": model_type},
        }
        top: dict[str, Any] = {}
        unknown = []
        for name, value in arguments.items():
            if name in ("inner", "model", "class_name"):
                unknown.append(name)
            elif name in cls.model_fields:
                top[name] = value
            elif name in inner.model_fields:
                parts["inner"][name] = value
            elif name in model.model_fields:
                parts["model"][name] = value
            else:
                unknown.append(name)
        return cls.validated({**top, **parts}), unknown

    @classmethod
    def validated(cls, values: Any) -> Self:
        """`model_validate`, with pydantic's report shortened to one phrase.

        Raises:
            ValueError: a value is missing or wrong; the message is one short phrase.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:80]
            what = first["msg"].removeprefix("Value error, ")[:120]
            raise ValueError(f"{where}: {what}" if where else what) from None
