"""A UNet2DModel as the network inside a `UNetBackbone`, with an embedding of s and in EDM's form.

The embedding of s needs no hook and no copy of `forward`: UNet2DModel adds
`class_embedding(labels)` to its time embedding. With an identity as `class_embedding`, the tensor
passed as labels is added unchanged.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import ConfigError
from harness.backbones.inner import InnerMap
from harness.backbones.unet import UNetBackbone


class DiscreteVP(InnerMap):
    """A network conditioned on the index of a discrete noise level, predicting noise or v.

    Between levels the index is interpolated linearly in log sigma. At noise level s the input is
    x' = x/sqrt(1 + s^2); noise prediction means D = x - s raw, and v prediction
    D = x/(1 + s^2) - s/sqrt(1 + s^2) raw (Salimans & Ho 2022).
    """

    def __init__(self, levels: list[float], prediction: str, sigma_data: float) -> None:
        super().__init__(levels[0], levels[-1], sigma_data)
        self.velocity = prediction == "v_prediction"
        log_levels = torch.tensor(levels, dtype=torch.float64).log()
        self.register_buffer("log_levels", log_levels, persistent=False)

    def denoiser(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMap.denoiser`."""
        if self.velocity:
            return 1 / (1 + t.square()), -t * (1 + t.square()).rsqrt()
        return torch.ones_like(t), -t

    def c_in(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_in`."""
        return (1 + t.square()).rsqrt()

    def c_noise(self, t: Tensor) -> Tensor:
        """See `InnerMap.c_noise`; a fractional timestep within 0..T-1."""
        log_t, known = t.log(), self.log_levels.double()
        above = torch.searchsorted(known, log_t.detach().contiguous())
        above = above.clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        return (above - 1 + (log_t - low) / (high - low)).clamp(0, len(known) - 1)

    def edm_form(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMap.edm_form`; the difference of the skips is in closed form."""
        sd, radius = self.sigma_data, (t.square() + self.sigma_data**2).sqrt()
        if self.velocity:
            unit = 1 + t.square()
            return t * (1 - sd**2) / (unit * sd * radius), -radius / (sd * unit.sqrt())
        return t / (sd * radius), -radius / sd


class DiffusersNet(nn.Module):
    """A UNet2DModel with the interface that `UNetBackbone` expects of its networks."""

    def __init__(self, unet: Any, classes: int) -> None:
        super().__init__()
        self.label_dim = classes
        self.class_embedding = unet.class_embedding
        unet.class_embedding = nn.Identity()
        self.unet = unet
        self.map_s: nn.Module | None = None

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution."""
        return self.unet.conv_out

    def add_s_embedding(self) -> None:
        """Add the branch for s: a copy of the time embedding whose last layer is zero.

        Raises:
            ValueError: the network has one already.
        """
        if self.map_s is not None:
            raise ValueError("this network has its embedding of s already")
        self.map_s = copy.deepcopy(self.unet.time_embedding)
        self.zero_s_embedding()

    def zero_s_embedding(self) -> None:
        """Set the last layer of the branch for s, if there is one, to zero."""
        if self.map_s is not None:
            nn.init.zeros_(self.map_s.linear_2.weight)
            nn.init.zeros_(self.map_s.linear_2.bias)

    def described(self, inner: DiscreteVP) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Description of this network for an export, and its weights outside UNet2DModel."""
        about = {
            "kind": "unet2d",
            "levels": inner.log_levels.double().exp().tolist(),
            "velocity": inner.velocity,
        }
        return about, {k: v for k, v in self.state_dict().items() if k.startswith("map_s.")}

    def save_pretrained(self, folder: Path) -> None:
        """Write the UNet2DModel in diffusers' format, as `unet/` of a pipeline folder."""
        self.unet.class_embedding = self.class_embedding
        try:
            self.unet.save_pretrained(folder / "unet", safe_serialization=True)
        finally:
            self.unet.class_embedding = nn.Identity()

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
        noise_s: Tensor | None = None,
    ) -> Tensor:
        """See `SongUNet.forward`; labels [B or 1, classes] mix the rows of the class embedding."""
        extra = x.new_zeros(1, self.unet.time_embedding.linear_2.out_features)
        if self.class_embedding is not None and labels is not None:
            extra = extra + labels @ self.class_embedding.weight
        if noise_s is not None:
            if self.map_s is None:
                raise ValueError("this network has no embedding of s: call add_s_embedding() first")
            extra = extra + self.map_s(self.unet.time_proj(noise_s))
        return self.unet(x, noise, class_labels=extra, return_dict=False)[0]


def load(folder: Path, levels: list[float], spec: dict[str, Any]) -> UNetBackbone:
    """The pipeline's network with its weights, frozen and in eval mode; nothing is downloaded.

    Raises:
        ConfigError: diffusers is not installed, or the weights do not fit the network.
    """
    try:
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import AttnProcessor
    except ImportError:
        raise ConfigError(
            "teacher 'diffusers': diffusers is not installed; pip install 'precondbench[diffusers]'"
        ) from None
    try:
        unet, info = UNet2DModel.from_pretrained(
            folder / "unet",
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"teacher 'diffusers': {folder}/unet cannot be loaded ({reason})"
        ) from None
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise ConfigError(
            f"teacher 'diffusers': {folder}/unet: the weights are not those of the network it"
            f" describes ({str(wrong[0])[:80]})"
        )
    for name, value in unet.state_dict().items():
        if not value.isfinite().all():
            raise ConfigError(
                f"teacher 'diffusers': {folder}/unet: tensor {name!r} holds NaN or infinity; get"
                " the file again"
            )
    for module in unet.modules():
        if hasattr(module, "set_processor"):  # fused attention has no forward-mode derivative
            module.set_processor(AttnProcessor())
    net = DiffusersNet(unet.float(), spec["classes"])
    inner = DiscreteVP(levels, spec["prediction"], spec["sigma_data"])
    backbone = UNetBackbone(net, inner, spec["channels"])
    for parameter in backbone.parameters():
        parameter.requires_grad = False  # the method of that name fails inside torch.func.jvp
    return backbone.eval()
