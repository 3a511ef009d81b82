"""A diffusers pipeline folder as teacher: a UNet2DModel with a DDPM schedule, converted to sigma.

Needs the optional dependency diffusers. Reads a local folder with safetensors only: nothing is
downloaded or executed. Creating the teacher reads JSON files; the weights are read on first use.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import (
    ConfigError,
    Params,
    Teacher,
    TeacherSpec,
    content_digest,
    located,
    register_teacher,
)
from teachers.diffusers_format.schedule import levels

if TYPE_CHECKING:
    from torch import Tensor

    from harness.backbones.unet import UNetBackbone

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
LAYOUT = (
    "expected is what DiffusionPipeline.save_pretrained(..., safe_serialization=True) writes:"
    f" unet/config.json, {WEIGHTS} and scheduler/scheduler_config.json"
)
PREDICTIONS = ("epsilon", "v_prediction")


class DiffusersParams(Params):
    """`folder` of a pipeline; `sigma_min`, `sigma_max` are limited to the schedule's range.

    `sigma_data` is the standard deviation of the data in EDM's form of the network.
    """

    folder: str = located()
    sigma_data: float = Field(default=0.5, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)


@register_teacher("diffusers")
class DiffusersTeacher(Teacher):
    """A diffusers pipeline folder: a UNet2DModel with a DDPM schedule, converted to sigma.

    Raises:
        ConfigError: the folder is not a pipeline of this kind; the message says why.
    """

    Params = DiffusersParams
    is_network = True

    def __init__(self, params: Any = None) -> None:
        if params is None:
            raise ConfigError("teacher 'diffusers': folder: name the folder of a saved pipeline")
        super().__init__(params)
        self.folder = Path(params.folder)
        unet, scheduler = (
            self._json("unet/config.json"),
            self._json("scheduler/scheduler_config.json"),
        )
        weights = self.folder / WEIGHTS
        if not weights.is_file():
            raise ConfigError(f"teacher 'diffusers': {weights}: no such file; {LAYOUT}")
        try:
            channels, size = _check(unet)
            self.levels = levels(scheduler)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"teacher 'diffusers': {self.folder}: {error}") from None
        self.prediction = scheduler.get("prediction_type", "epsilon")
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"teacher 'diffusers': {self.folder}: prediction_type {self.prediction!r} is not"
                f" one of {', '.join(PREDICTIONS)}"
            )
        sigma_min = max(params.sigma_min, self.levels[0])
        sigma_max = min(params.sigma_max, self.levels[-1])
        if not sigma_min < sigma_max:
            raise ConfigError(
                f"teacher 'diffusers': sigma_min {params.sigma_min:g} to sigma_max"
                f" {params.sigma_max:g} leaves nothing of the schedule's own range"
                f" {self.levels[0]:g} to {self.levels[-1]:g}"
            )
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        chosen = params.model_dump(exclude={"folder"})
        self.spec = TeacherSpec(
            shape=(channels, size, size),
            sigma_data=params.sigma_data,
            digest=content_digest([digest, unet, scheduler, chosen], length=64),
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            classes=unet.get("num_class_embeds") or 0,
        )
        self._backbone: UNetBackbone | None = None

    @property
    def backbone(self) -> UNetBackbone:
        """The pipeline's own network, frozen and in eval mode; loaded on first use."""
        if self._backbone is None:
            from teachers.diffusers_format.network import load

            what = {
                "classes": self.spec.classes,
                "prediction": self.prediction,
                "sigma_data": self.spec.sigma_data,
                "channels": self.spec.shape[0],
            }
            self._backbone = load(self.folder, self.levels, what)
        return self._backbone

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`; x is [B, C, R, R], data in [-1, 1], labels one-hot or None."""
        import torch

        return self.backbone.denoise(x, torch.as_tensor(sigma, device=x.device), labels)

    def network(self) -> UNetBackbone:
        """A student's backbone: the teacher's weights, trainable, with a branch for s."""
        fresh = copy.deepcopy(self.backbone)
        fresh.net.add_s_embedding()
        return fresh.requires_grad_(True).train()

    def to(self, device: Any) -> DiffusersTeacher:
        """See `Teacher.to`."""
        self.backbone.to(device)
        return self

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"teacher 'diffusers': {path}: no such file; {LAYOUT}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"teacher 'diffusers': {path}: cannot be read ({error})") from None
        if not isinstance(found, dict):
            raise ConfigError(f"teacher 'diffusers': {path}: is not a configuration; {LAYOUT}")
        return found


def _check(unet: dict[str, Any]) -> tuple[int, int]:
    """Return channels and side of the images.

    Raises:
        ValueError: names a setting that is not supported.
    """
    size, channels = unet.get("sample_size"), unet.get("in_channels", 3)
    if unet.get("_class_name") != "UNet2DModel":
        raise ValueError(f"the network is {unet.get('_class_name')}, not UNet2DModel")
    if type(size) is not int or type(channels) is not int or size < 1 or channels < 1:
        raise ValueError("unet/config.json gives no square sample_size or no in_channels")
    if unet.get("time_embedding_type", "positional") != "positional":
        raise ValueError("only a positional time_embedding_type can be read between timesteps")
    if unet.get("class_embed_type") is not None:
        raise ValueError(f"class_embed_type {unet['class_embed_type']!r} is not supported")
    return channels, size
