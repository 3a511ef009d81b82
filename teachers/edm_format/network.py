"""Build the network of a checkpoint and fill in its weights."""

from __future__ import annotations

import torch

from harness.api import ConfigError
from harness.backbones import inner
from harness.backbones.adm import DhariwalUNet
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from teachers.edm_format.checkpoint import BFLOAT16, Checkpoint, refusal
from teachers.edm_format.config import NetworkConfig

_INNER = {
    "EDMPrecond": inner.EDM,
    "VPPrecond": inner.VP,
    "VEPrecond": inner.VE,
    "iDDPMPrecond": inner.IDDPM,
}
_NETWORKS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
_FLOATS = ("<f2", "<f4", "<f8", BFLOAT16)


def build(config: NetworkConfig, reads_s: bool = False) -> UNetBackbone:
    """An untrained backbone of this configuration, on torch's current default device.

    `reads_s`: with a student's branch for s in every block.
    """
    mapping = _INNER[config.inner.class_name](**config.inner.model_dump(exclude={"class_name"}))
    net = _NETWORKS[config.model.model_type](
        img_resolution=config.img_resolution,
        in_channels=config.img_channels,
        out_channels=config.img_channels * mapping.outputs,
        label_dim=config.label_dim,
        **config.model.model_dump(exclude={"model_type"}),
    )
    if reads_s:
        net.s_embedding_per_block()
    return UNetBackbone(net, mapping, config.img_channels)


def load(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> UNetBackbone:
    """The checkpoint's backbone with its weights, float32 on the CPU, in eval mode, frozen.

    Its blocks compute in `dtype`. Tensors are read one by one into their final memory, so that the
    peak memory is about the size of the network.

    Raises:
        ConfigError: the file's tensors are not exactly those of the network it describes, or a
            weight is not finite or exceeds the range of `dtype`.
    """
    backbone = check(checkpoint)
    limit = min(torch.finfo(torch.float32).max, torch.finfo(dtype).max)
    state = {}
    for key, tensor in checkpoint.tensors.items():
        values = tensor.read()
        checkpoint.refuse_bad(key, values, limit)
        state[_ours(key)] = torch.from_numpy(values).to(torch.float32)
    backbone.load_state_dict(state, strict=True, assign=True)
    for parameter in backbone.parameters():
        parameter.requires_grad = False  # the method of that name fails inside torch.func.jvp
    backbone.dtype = dtype
    return backbone.eval()


def check(checkpoint: Checkpoint) -> UNetBackbone:
    """Build the network on the meta device and compare its tensors with those of the file.

    Raises:
        ConfigError: keys, shapes or dtypes differ; the message names the first difference.
    """
    try:
        with torch.device("meta"):
            backbone = build(checkpoint.config, checkpoint.reads_s)
    except (ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        problem = f"describes a network that cannot be built ({reason})"
        raise refusal(checkpoint.path, problem, checkpoint.mend) from None
    expected = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    found = {_ours(key): tensor for key, tensor in checkpoint.tensors.items()}
    for key, shape in expected.items():
        if key not in found:
            raise _differs(checkpoint, f"lacks tensor {key!r}")
        if found[key].shape != shape:
            has = list(found[key].shape)
            raise _differs(checkpoint, f"tensor {key!r} is {has} instead of {list(shape)}")
        if found[key].dtype not in _FLOATS:
            raise _differs(checkpoint, f"tensor {key!r} is not floating-point")
    extra = [key for key in found if key not in expected]
    if extra:
        raise _differs(checkpoint, f"has an unexpected tensor {extra[0][:80]!r}")
    return backbone


def _ours(key: str) -> str:
    """Map the name of a tensor in an EDM file to its name in `UNetBackbone`."""
    prefix, dot, rest = key.partition(".")
    return f"net.{rest}" if dot and prefix == "model" else f"inner.{key}"


def _differs(checkpoint: Checkpoint, difference: str) -> ConfigError:
    problem = f"does not hold the network it describes ({difference})"
    return refusal(checkpoint.path, problem, checkpoint.mend)
