"""Build student.json: the network layer by layer, and the coefficients of the samplers' jumps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.api import ConfigError
from harness.backbones.adm import DhariwalUNet
from harness.backbones.block import UNetBlock
from harness.backbones.inner import EDM
from harness.backbones.layers import Conv2d, FourierEmbedding, GroupNorm
from harness.backbones.mlp import MLP
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from harness.core.schedule import karras

if TYPE_CHECKING:
    from harness.api import Preconditioning, TrainedStudent

#: numbers of steps that coefficients are written for, beside those that were evaluated
STEPS = (1, 2, 3, 4, 5, 6, 8, 10)


def describe(
    student: TrainedStudent, steps: Iterable[int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """student.json without results, and the tensors of model.safetensors.

    Raises:
        ConfigError: the student's network is not one that student.py can build.
    """
    spec, backbone = student.spec, student.student.backbone
    scale = 0.25
    if isinstance(backbone, MLP):
        network, weights = _mlp(backbone), backbone.state_dict()
    elif (
        isinstance(backbone, UNetBackbone)
        and isinstance(backbone.net, SongUNet | DhariwalUNet)
        and isinstance(backbone.inner, EDM)
    ):
        network, weights = _unet(backbone.net, spec.classes), backbone.net.state_dict()
        weights = {key: value for key, value in weights.items() if not _unused(key)}
        scale = backbone.inner.noise_scale
    elif isinstance(backbone, UNetBackbone) and hasattr(backbone.net, "described"):
        network, weights = backbone.net.described(backbone.inner)  # a network of diffusers
    else:
        raise ConfigError(
            f"export: {type(backbone).__name__} is no network that the exported file can build: it"
            " builds MLPs, U-Nets of harness/backbones with EDM's coefficients, and those of"
            " diffusers"
        )
    precond = student.student.precond
    samplers = [name for name in spec.samplers if name != "gamma"]
    levels = {n: karras(n + 1, spec.sigma_min, spec.sigma_max).tolist() for n in sorted({*steps})}
    jumps = [pair for nodes in levels.values() for pair in pairwise(nodes)]
    if spec.ends == "sigma_min":
        jumps = []
    jumps += [(t, spec.sigma_min) for nodes in levels.values() for t in nodes[:-1]]
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    if precond.offset is not None:
        tensors["precond.offset"] = precond.offset.float().cpu().contiguous()
    if (basis := precond.basis) is not None:
        for number, axis in enumerate(basis.axes):
            tensors[f"precond.axis{number}"] = axis.cpu().contiguous()
        tensors["precond.bands"] = basis.bands.cpu().contiguous()
    about = {
        "shape": list(spec.shape),
        "classes": spec.classes,
        "sigma_data": spec.sigma_data,
        "sigma_min": spec.sigma_min,
        "sigma_max": spec.sigma_max,
        "tells_s": student.student.tells_s,
        "noise_scale": scale,
        "samplers": samplers,
        "levels": {str(n): nodes for n, nodes in levels.items()},
        "network": network,
        "coefficients": [_row(precond, t, s) for t, s in dict.fromkeys(jumps)],
    }
    return about, tensors


def _row(precond: Preconditioning, t: float, s: float) -> dict[str, Any]:
    """skip, out and shift of one jump (numbers, or lists by band), and the conditioning sigma."""

    def listed(value: torch.Tensor) -> float | list[float]:
        return value[0].tolist() if value.dim() > 1 else float(value)

    at, to = (torch.tensor([level], dtype=torch.float64) for level in (t, s))
    coeffs, told = precond.coeffs(at, to), precond.conditioning_sigma(at, to)
    var = precond.sigma_data**2
    return {
        "t": t,
        "s": s,
        "skip": listed(coeffs.skip),
        "out": listed(coeffs.out),
        "shift": None if coeffs.shift is None else listed(coeffs.shift),
        "told": float(told),
        "told_scale": float(((told * told + var) / (at * at + var)).sqrt()),
    }


def _mlp(net: MLP) -> dict[str, Any]:
    return {
        "kind": "mlp",
        "dim": net.inlet.in_features,
        "width": net.width,
        "depth": len(net.mixers),
        "classes": net.embed_label.in_features if net.embed_label is not None else 0,
    }


def _unet(net: SongUNet | DhariwalUNet, classes: int) -> dict[str, Any]:
    noise = net.map_noise
    width, embedding = net.map_layer0.weight.shape[1], net.map_layer0.weight.shape[0]
    if isinstance(noise, FourierEmbedding):
        waves = {"kind": "fourier", "width": width}
    else:
        waves = {"kind": "positional", "width": width, "endpoint": noise.endpoint}
    adm = isinstance(net, DhariwalUNet)
    branch = None if net.map_layer0_s is None else "per_block" if net.per_block else "shared"
    told = {
        "kind": "unet",
        "family": "adm" if adm else "song",
        "classes": classes,
        "noise": waves,
        "embedding": embedding,
        "s": branch,
        "label_s": not adm or net.label_s,
        "enc": {name: _layer(layer) for name, layer in net.enc.items()},
        "dec": {name: _layer(layer) for name, layer in net.dec.items()},
    }
    return told | ({"last": _norm(net.out_norm) | {"conv": _conv(net.out_conv)}} if adm else {})


def _unused(key: str) -> bool:
    """Whether a weight belongs to augmentation conditioning, which is used in training only."""
    return key.startswith("map_augment.")


def _layer(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, Conv2d):
        return _conv(layer)
    if isinstance(layer, GroupNorm):
        return _norm(layer)
    return _block(layer)


def _block(block: UNetBlock) -> dict[str, Any]:
    return {
        "kind": "block",
        "in": block.in_channels,
        "out": block.out_channels,
        "heads": block.heads,
        "adaptive": block.adaptive,
        "skip_scale": block.skip_scale,
        "eps": block.norm0.eps,
        "groups": [block.norm0.groups, block.norm1.groups],
        "reads_s": block.affine_s is not None,
        "conv0": _conv(block.conv0),
        "skip": None if block.skip is None else _conv(block.skip),
    }


def _norm(norm: GroupNorm) -> dict[str, Any]:
    return {"kind": "norm", "channels": len(norm.weight), "groups": norm.groups, "eps": norm.eps}


def _conv(conv: Conv2d) -> dict[str, Any]:
    return {
        "kind": "conv",
        "in": conv.in_channels,
        "out": conv.out_channels,
        "kernel": 0 if conv.weight is None else conv.weight.shape[-1],
        "resample": conv.resample,
        "taps": conv.resample_filter.shape[-1] if conv.resample else 0,
        "fused": conv.fused,
    }
