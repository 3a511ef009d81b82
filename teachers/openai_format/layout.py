"""The U-Net of OpenAI's guided-diffusion and consistency_models as our `DhariwalUNet`.

The networks are the same under other names: `output_blocks.4.2` there (the upsampling block, last
of its level) is `32x32_up` here, the first of the next level. Two kinds of tensors have another
layout: channels of attention are (query/key/value, head, channel) there, or in the legacy order
(head, query/key/value, channel), and (head, channel, query/key/value) here; and the class embedding
is transposed. Both are read through strides, without copies.

Layouts, sizes and conditioning: openai/consistency_models at e32b69e; the branch that reads s:
sony/ctm at 87cca3b.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from teachers.edm_format.checkpoint import (
    AGAIN,
    Checkpoint,
    Constant,
    StoredTensor,
    contiguous,
    refusal,
)
from teachers.edm_format.config import NetworkConfig
from teachers.edm_format.machine import short
from teachers.openai_format.state_dict import precision_note, read_state_dict, without_prefix

Order = Literal["new", "legacy"]
#: channel multipliers -> side of the images, as the reference code pairs them
SIDES = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256}
#: our layer -> theirs, within a residual block and within an attention block
_BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "affine_s": "emb_layers_s.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
_EMBEDDING = {"map_layer0": "time_embed.0", "map_layer1": "time_embed.2"}
_EMBEDDING_S = {"map_layer0_s": "time_embed_s.0", "map_layer1_s": "time_embed_s.2"}
#: a name -> whose network it belongs to, and what reads that
_OTHERS = {
    r"model\.map_layer0\.": (
        "is a network of EDM's family",
        "read a student of CTM's CIFAR-10 code with load_student, a teacher with `edm`",
    ),
    r"conv_in\.|down_blocks\.": (
        "is a network of the diffusers library",
        "name the folder of its pipeline for teacher `diffusers`",
    ),
}


@dataclass(frozen=True)
class Settings:
    """Settings that do not follow from the tensors; image side None means as published.

    Published files have attention heads of 64 channels in the new order.
    """

    resolution: int | None = None
    head_channels: int = 64
    attention_order: Order = "new"
    dropout: float = 0.0
    sigma_data: float = 0.5


def open_openai(path: Path, settings: Settings) -> Checkpoint:
    """Open a .pt file of this family, a teacher or a student with a branch for s.

    Raises:
        ConfigError: it is of another family (the message says which), or lacks tensors.
    """
    tensors, notes = without_prefix(read_state_dict(path))
    try:
        return _Layout(path, tensors, settings).checkpoint(
            (*notes, *precision_note(tensors)),
        )
    except _Differs as difference:
        for pattern, (problem, mend) in _OTHERS.items():
            if any(re.match(pattern, name) for name in tensors):
                raise refusal(path, problem, mend) from None
        problem = f"does not hold OpenAI's U-Net ({difference})"
        raise refusal(path, problem, difference.mend) from None


class _Differs(Exception):
    """A file is not of this family: the difference, and what to do."""

    def __init__(self, what: str, mend: str = AGAIN) -> None:
        super().__init__(what)
        self.mend = mend


class _Layout:
    """One state dict, whose architecture is inferred from names and shapes."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor], settings: Settings) -> None:
        self.path, self.theirs, self.settings = path, tensors, settings
        self.embedding, self.channels = self._matrix("time_embed.0.weight")
        blocks = _count(tensors, "output_blocks")
        ups = [k for k in range(blocks) if self._up(k) is not None]
        self.levels = len(ups) + 1
        if not blocks or blocks % self.levels:
            raise _Differs(f"{blocks} output blocks for {self.levels} resolutions")
        self.blocks = blocks // self.levels - 1
        if self.blocks < 1 or _count(tensors, "input_blocks") != blocks:
            raise _Differs("its input and output blocks do not pair up")
        if any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) for name in tensors):
            raise _Differs(
                "it halves images by a convolution of its own",
                "only networks with resblock_updown, as all published ones, can be read",
            )

    def checkpoint(self, notes: tuple[str, ...]) -> Checkpoint:
        """Configuration, and tensors under our names, with the resampling filters added."""
        import numpy as np

        config = self._config()
        found: dict[str, StoredTensor | Constant] = {}
        used: set[str] = set()
        for ours, theirs in self._names(config):
            if theirs not in self.theirs:
                raise _Differs(f"it lacks tensor {short(theirs)}")
            used.add(theirs)
            found[f"model.{ours}"] = self._ordered(ours, self.theirs[theirs])
        if extra := [name for name in self.theirs if name not in used]:
            raise _Differs(f"it has an unexpected tensor {short(extra[0])}")
        box = Constant(np.full((1, 1, 2, 2), 0.25, np.float32))  # the mean of four pixels
        for level in range(1, self.levels):
            down, up = (config.img_resolution >> at for at in (level, level - 1))
            for block in (f"enc.{down}x{down}_down", f"dec.{up}x{up}_up"):
                found |= {
                    f"model.{block}.{layer}.resample_filter": box for layer in ("conv0", "skip")
                }
        return Checkpoint(self.path, config, found, notes, reads_s=self._reads_s)

    @property
    def _reads_s(self) -> bool:
        return "time_embed_s.0.weight" in self.theirs

    def _config(self) -> NetworkConfig:
        first = self._shape("input_blocks.0.0.weight", 4)
        outputs = self._shape("out.2.weight", 4)[0]
        if outputs == 2 * first[1]:
            raise _Differs(
                "it predicts a variance as well: guided-diffusion's, with discrete noise levels",
                "that one as EDM published it is baseline-imagenet-64x64-cond-adm.pkl, of teacher"
                " `edm`",
            )
        firsts = [1 + level * (self.blocks + 1) for level in range(self.levels)]
        widths = [self._shape(f"input_blocks.{i}.0.in_layers.2.weight", 4)[0] for i in firsts]
        if any(width % self.channels for width in widths) or self.embedding % self.channels:
            raise _Differs("its widths are no multiples of the width of its time embedding")
        multipliers = [width // self.channels for width in widths]
        side = self.settings.resolution or SIDES.get(tuple(multipliers))
        if side is None:
            raise _Differs(
                f"channel multipliers {multipliers} belong to no published network, so the side of"
                " its images is not known",
                "give it as the parameter `resolution`",
            )
        attention = [
            side >> level
            for level, i in enumerate(firsts)
            if f"input_blocks.{i}.1.qkv.weight" in self.theirs
        ]
        affine = self._shape("middle_block.0.emb_layers.1.weight", 2)[0]
        classes = self._matrix("label_emb.weight")[0] if "label_emb.weight" in self.theirs else 0
        arguments: dict[str, Any] = {
            "model_type": "DhariwalUNet",
            "img_resolution": side,
            "img_channels": first[1],
            "label_dim": classes,
            "model_channels": self.channels,
            "channel_mult": multipliers,
            "channel_mult_emb": self.embedding // self.channels,
            "num_blocks": self.blocks,
            "attn_resolutions": attention,
            "dropout": self.settings.dropout,
            "scale_shift": affine == 2 * widths[-1],
            "head_channels": self.settings.head_channels,
            "group_channels": 1,
            "label_s": False,
            "sigma_data": self.settings.sigma_data,
            "noise_scale": 250.0,
        }
        try:
            return NetworkConfig.from_arguments("EDMPrecond", arguments)[0]
        except ValueError as error:
            raise _Differs(f"a network that cannot be built: {error}") from None

    def _names(self, config: NetworkConfig) -> Iterator[tuple[str, str]]:
        """Our name -> theirs, for every tensor of this architecture."""
        layers = [*_EMBEDDING.items(), *(_EMBEDDING_S.items() if self._reads_s else [])]
        for ours, theirs in layers:
            yield from _both(ours, theirs)
        if config.label_dim:
            yield "map_label.weight", "label_emb.weight"
        side, index = config.img_resolution, 0
        for level in range(self.levels):
            size = side >> level
            at = f"enc.{size}x{size}"
            if level == 0:
                yield from _both(f"{at}_conv", "input_blocks.0.0")
            else:
                yield from self._block(f"{at}_down", f"input_blocks.{index}.0")
            for block in range(self.blocks):
                index += 1
                there = f"input_blocks.{index}"
                yield from self._block(f"{at}_block{block}", f"{there}.0")
                yield from self._attention(f"{at}_block{block}", f"{there}.1")
            index += 1
        lowest, index = side >> (self.levels - 1), 0
        at = f"dec.{lowest}x{lowest}"
        yield from self._block(f"{at}_in0", "middle_block.0")
        yield from self._attention(f"{at}_in0", "middle_block.1", always=True)
        yield from self._block(f"{at}_in1", "middle_block.2")
        for level in reversed(range(self.levels)):
            size = side >> level
            at = f"dec.{size}x{size}"
            if level < self.levels - 1:
                if (up := self._up(index - 1)) is None:
                    raise _Differs(f"output block {index - 1} does not double the image")
                yield from self._block(f"{at}_up", up)
            for block in range(self.blocks + 1):
                there = f"output_blocks.{index}"
                yield from self._block(f"{at}_block{block}", f"{there}.0")
                yield from self._attention(f"{at}_block{block}", f"{there}.1")
                index += 1
        yield from _both("out_norm", "out.0")
        yield from _both("out_conv", "out.2")

    def _block(self, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        for layer, there in _BLOCK.items():
            if layer == "affine_s" and not self._reads_s:
                continue
            if layer == "skip" and f"{theirs}.{there}.weight" not in self.theirs:
                continue
            yield from _both(f"{ours}.{layer}", f"{theirs}.{there}")

    def _attention(self, ours: str, theirs: str, always: bool = False) -> Iterator[tuple[str, str]]:
        if always or f"{theirs}.qkv.weight" in self.theirs:
            for layer, there in _ATTENTION.items():
                yield from _both(f"{ours}.{layer}", f"{theirs}.{there}")

    def _up(self, block: int) -> str | None:
        """Name of the upsampling residual block at the end of an output block, if any."""
        for place in (1, 2):
            if f"output_blocks.{block}.{place}.conv.weight" in self.theirs:
                raise _Differs(
                    "it doubles images by a convolution of its own",
                    "only networks with resblock_updown, as all published ones, can be read",
                )
            if f"output_blocks.{block}.{place}.in_layers.2.weight" in self.theirs:
                return f"output_blocks.{block}.{place}"
        return None

    def _ordered(self, ours: str, tensor: StoredTensor) -> StoredTensor:
        """The tensor with rows and shape in the layout of our network."""
        if ours == "map_label.weight":
            return _seen(tensor, (1, 0))
        if ".qkv." in ours:
            return self._attention_rows(tensor, bias=ours.endswith("bias"))
        if ".proj.weight" in ours and len(tensor.shape) == 3:  # a convolution of one dimension
            return replace(tensor, shape=(*tensor.shape, 1), stride=None)
        return tensor

    def _attention_rows(self, tensor: StoredTensor, bias: bool) -> StoredTensor:
        rows, dim = tensor.shape[0], self.settings.head_channels
        if tensor.stride is not None or rows % (3 * dim):
            raise _Differs(
                f"attention of {rows // 3} channels does not divide into heads of {dim}",
                "give the channels of a head as the parameter `head_channels`",
            )
        heads, width = rows // (3 * dim), tensor.count // rows
        if self.settings.attention_order == "new":
            split, moved = (3, heads, dim, width), (1, 2, 0, 3)
        else:
            split, moved = (heads, 3, dim, width), (0, 2, 1, 3)
        shape = (rows,) if bias else (rows, width, 1, 1)
        return replace(_seen(replace(tensor, shape=split), moved, laid=True), shape=shape)

    def _matrix(self, name: str) -> tuple[int, int]:
        rows, columns = self._shape(name, 2)
        return rows, columns

    def _shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        if name not in self.theirs:
            raise _Differs(f"it lacks tensor {short(name)}")
        shape = self.theirs[name].shape
        if len(shape) != dimensions or not all(shape):
            raise _Differs(f"tensor {short(name)} is {list(shape)}")
        return shape


def _both(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for part in ("weight", "bias"):
        yield f"{ours}.{part}", f"{theirs}.{part}"


def _count(tensors: Mapping[str, Any], group: str) -> int:
    """Number of blocks in a group: one more than the largest index among the names."""
    found = (re.match(rf"{group}\.(\d{{1,4}})\.", name) for name in tensors)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def _seen(tensor: StoredTensor, axes: tuple[int, ...], *, laid: bool = False) -> StoredTensor:
    """A contiguous tensor with permuted axes; `laid`: only in the view, for a later reshape."""
    stride = tensor.stride or contiguous(tensor.shape)
    shape = tuple(tensor.shape[axis] for axis in axes)
    moved = tuple(stride[axis] for axis in axes)
    return replace(tensor, shape=shape, stride=moved, laid=shape if laid else None)


def refuse_student(checkpoint: Checkpoint) -> None:
    """Refuse a student's file where a teacher is expected.

    Raises:
        ConfigError: the network has a branch for s.
    """
    if checkpoint.reads_s:
        raise refusal(
            checkpoint.path,
            "is a student: it reads where its jump ends",
            "load it with load_student; a teacher is e.g. edm_imagenet64_ema.pt",
        )
