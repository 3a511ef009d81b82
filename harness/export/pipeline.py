"""A few-step student of a UNet2DModel as a pipeline of diffusers; lies beside student.py.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR)
    images = pipe(batch_size=16, num_inference_steps=2).images

`pipe.unet` is the student's UNet2DModel; what tells it where a jump ends, which UNet2DModel has no
place for, is in model.safetensors, coefficients in student.json.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn


class StudentPipeline(DiffusionPipeline):
    """Images in a few jumps."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.register_modules(unet=unet)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 2,
        class_labels: list[int] | Tensor | None = None,
        seed: int = 0,
        sampler: str | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """See `Student.sample` in student.py; `output_type` is pil, np or pt (data in [-1, 1])."""
        labels = None if class_labels is None else torch.as_tensor(class_labels)
        x = self.student.sample(batch_size, num_inference_steps, seed, labels, sampler)
        if output_type == "pt":
            return ImagePipelineOutput(images=x)
        images = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().float().numpy()
        return ImagePipelineOutput(
            images=self.numpy_to_pil(images) if output_type == "pil" else images
        )

    @property
    def student(self):
        """f(x, t, s) with the U-Net of this pipeline."""
        folder = Path(self.config._name_or_path)
        about = json.loads((folder / "student.json").read_text())
        weights = load_file(folder / "model.safetensors")
        student = _beside(folder).Student(about, weights, Network(self.unet, about, weights))
        return student.to(self.unet.device)


class Network(nn.Module):
    """UNet2DModel in EDM's form, told of s: F = a x + b raw(c_in x, c_noise(t), c_noise(s)).

    UNet2DModel adds `class_embedding(labels)` to its time embedding: with an identity in that place
    whatever is handed over as labels is added, here rows of its own class embedding and of s.
    """

    def __init__(self, unet: UNet2DModel, about: dict, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.unet, self.about = unet, about
        self.map_s = None
        if own := {k[6:]: weights.pop(k) for k in list(weights) if k.startswith("map_s.")}:
            width, hidden = own["linear_1.weight"].shape[::-1]
            self.map_s = type(unet.time_embedding)(width, hidden)
            self.map_s.load_state_dict(own)
        levels = torch.tensor(about["network"]["levels"], dtype=torch.float64)
        self.register_buffer("log_levels", levels.log(), persistent=False)

    def in_edm_form(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """F for x [B, C, H, W] at level t, told s; both float64 [B]."""
        sd, velocity = self.about["sigma_data"], self.about["network"]["velocity"]
        radius, unit = (t.square() + sd**2).sqrt(), 1 + t.square()
        a, b = t / (sd * radius), -radius / sd
        if velocity:
            a, b = t * (1 - sd**2) / (unit * sd * radius), -radius / (sd * unit.sqrt())
        scaled = x * unit.rsqrt().to(x.dtype)[:, None, None, None]
        raw = self(scaled, self._timestep(t), None if s is None else self._timestep(s), labels)
        a, b = (value.to(x.dtype)[:, None, None, None] for value in (a, b))
        return a * x + b * raw

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """The network proper at fractional timesteps t and s."""
        embedding, unet = self.unet.class_embedding, self.unet
        extra = x.new_zeros(1, unet.time_embedding.linear_2.out_features)
        if embedding is not None and labels is not None:
            extra = extra + labels @ embedding.weight
        if s is not None and self.map_s is not None:
            extra = extra + self.map_s(unet.time_proj(s))
        unet.class_embedding = nn.Identity()
        try:
            return unet(x, t, class_labels=extra, return_dict=False)[0][:, : x.shape[1]]
        finally:
            unet.class_embedding = embedding

    def _timestep(self, t: Tensor) -> Tensor:
        """The index of a noise level, between two by linear interpolation in log sigma."""
        known, log_t = self.log_levels.to(t), t.log()
        above = torch.searchsorted(known, log_t).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        return (above - 1 + (log_t - low) / (high - low)).clamp(0, len(known) - 1).float()


def _beside(folder: Path) -> ModuleType:
    """student.py of the folder, as a module."""
    spec = importlib.util.spec_from_file_location("student", folder / "student.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
