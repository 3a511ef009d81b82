"""LPIPS, the learned perceptual distance of Zhang et al. 2018, on a VGG16 trunk.

Preprocessing, in this order, as CTM's and CM's reference code has it: [-1, 1] is mapped to [0, 1]
without clamping; images with a side below 256 are resized to 224 x 224, bilinear without
antialiasing; the mean and deviation of ImageNet's pixels are taken off (in [-1, 1] these are the
`lpips` package's scaling layer). Grey images are repeated to three channels. Features after
relu1_2, 2_2, 3_3, 4_3, 5_3 are scaled to unit length over channels; squared differences are summed
with the linear heads' weights and averaged over positions. The reference code pools by average
(piq, `replace_pooling=True`); the `lpips` package by maximum, which the heads were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Pooling = Literal["average", "max"]
#: convolutions of VGG16 by stage: torchvision's index in `features`, and the width
STAGES = (
    ((0, 2), 64),
    ((5, 7), 128),
    ((10, 12, 14), 256),
    ((17, 19, 21), 512),
    ((24, 26, 28), 512),
)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
EPS = 1e-10


class LPIPS(nn.Module):
    """LPIPS distance between image batches in [-1, 1]; frozen, always computed in float32.

    Args:
        pooling: see the module's docstring.
        resize: side to which images with a side below 256 are resized; None: no resizing.
    """

    def __init__(self, pooling: Pooling = "average", resize: int | None = 224) -> None:
        super().__init__()
        self.pool = functional.avg_pool2d if pooling == "average" else functional.max_pool2d
        self.resize = resize
        self.convolutions = nn.ModuleDict()
        channels = 3
        for indices, width in STAGES:
            for index in indices:
                self.convolutions[str(index)] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        self.heads = nn.ParameterList(torch.zeros(width) for _, width in STAGES)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1), persistent=False)
        for parameter in self.parameters():
            parameter.requires_grad = False

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, float32 [B], for a and b [B, 1 or 3, H, W]; differentiable."""
        with torch.autocast(a.device.type, enabled=False):
            total = torch.zeros(len(a), device=a.device)
            for head, f, g in zip(self.heads, self.features(a), self.features(b), strict=True):
                total = total + ((f - g).square() * head[:, None, None]).sum(1).mean((1, 2))
            return total

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-length features of five stages, each [B, C, h, w]."""
        x = (x.float() + 1) / 2
        if self.resize and min(x.shape[2:]) < 256:
            x = functional.interpolate(x, (self.resize, self.resize), mode="bilinear")
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        found = []
        for stage, (indices, _) in enumerate(STAGES):
            x = self.pool(x, 2) if stage else x
            for index in indices:
                x = functional.relu(self.convolutions[str(index)](x))
            # a pixel without any active feature would make the root's slope infinite
            length = x.square().sum(1, keepdim=True).clamp_min(EPS**2).sqrt()
            found.append(x / (length + EPS))
        return found

    def load(self, trunk: str | Path, heads: str | Path) -> LPIPS:
        """Load torchvision's VGG16 state dict and the linear heads of `lpips` v0.1; returns self.

        Raises:
            ValueError: a file cannot be read, or a tensor is missing or of another shape.
        """
        vgg, linear = _read(Path(trunk)), _read(Path(heads))
        for index, layer in self.convolutions.items():
            for name, parameter in layer.named_parameters():
                _copy(parameter, vgg, f"features.{index}.{name}", trunk)
        for stage, head in enumerate(self.heads):
            _copy(head, linear, f"lin{stage}.model.1.weight", heads)
        return self


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict from .safetensors, or from a .pth file with `weights_only=True`."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path}: cannot be read as weights ({reason})") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: holds no state dict")
    return found


def _copy(parameter: Tensor, state: Mapping[str, Tensor], key: str, path: str | Path) -> None:
    value = state.get(key)
    if not isinstance(value, Tensor) or value.numel() != parameter.numel():
        raise ValueError(f"{path}: lacks tensor {key!r} of {list(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))
