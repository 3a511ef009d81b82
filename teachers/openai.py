"""OpenAI's U-Nets in EDM's form as teachers (Song et al. 2023), read without executing a file.

`edm_imagenet64_ema.pt` is the published teacher of consistency distillation and of CTM on ImageNet
64x64; `edm_bedroom256_ema.pt` and `edm_cat256_ema.pt` are for LSUN. The network is `DhariwalUNet`
with other names of tensors (`teachers.openai_format`). Weights are not part of this repository: the
user downloads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.api import register_teacher
from teachers.edm import EDMParams, EDMTeacher
from teachers.edm_format.checkpoint import Checkpoint, refusal
from teachers.edm_format.convert import open_checkpoint
from teachers.openai_format.layout import Settings, open_openai, refuse_student

BASE_URL = "https://openaipublic.blob.core.windows.net/consistency/"
PUBLISHED = ("edm_imagenet64_ema.pt", "edm_bedroom256_ema.pt", "edm_cat256_ema.pt")
#: parameters that change what the network computes
_READING = ("resolution", "head_channels", "attention_order", "sigma_data")


class OpenAIParams(EDMParams):
    """`weights` (.pt, or converted to .safetensors), and settings that a .pt does not contain.

    `resolution` follows from the channel multipliers of the published networks. `head_channels` and
    `attention_order` describe attention: `legacy` is guided-diffusion's order without
    use_new_attention_order. `dropout` is that of students; published ones have none.
    """

    resolution: int | None = Field(default=None, ge=4, le=4096)
    head_channels: int = Field(default=64, ge=1, le=64)
    attention_order: Literal["new", "legacy"] = "new"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    sigma_data: float = Field(default=0.5, gt=0, allow_inf_nan=False)


@register_teacher("openai")
class OpenAITeacher(EDMTeacher):
    """A U-Net of OpenAI's consistency_models in EDM's form, e.g. edm_imagenet64_ema.pt.

    Raises:
        ConfigError: the file is missing (the message says where to get it) or not usable.
    """

    Params = OpenAIParams

    def _open(self) -> Checkpoint:
        path = Path(self.params.weights).expanduser()
        if not path.is_file():
            problem = "is a folder, not a file" if path.is_dir() else "no such file"
            names = [path.name] if path.name in PUBLISHED else PUBLISHED
            mend = f"download {' or '.join(names)} from {BASE_URL} to this place"
            raise refusal(path, problem, mend)
        if path.suffix.lower() == ".safetensors":
            return open_checkpoint(path)
        given = {name: getattr(self.params, name) for name in Settings.__dataclass_fields__}
        checkpoint = open_openai(path, Settings(**given))
        refuse_student(checkpoint)
        return checkpoint

    def _reading(self) -> list[str]:
        fields = type(self.params).model_fields
        given = {name: getattr(self.params, name) for name in _READING}
        told = [f"{k}={v}" for k, v in given.items() if v != fields[k].default]
        return [*super()._reading(), *told]
