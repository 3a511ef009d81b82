"""The architecture of a network, inferred from the names and shapes of its tensors.

Needed for files that record no constructor arguments. Dropout cannot be inferred from shapes and
keeps its default; it affects only students that train with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
_ENTRY = re.compile(r"model\.(enc|dec)\.(\d+)x\d+_(\w+)\.")


def infer_arguments(shapes: Shapes) -> dict[str, Any]:
    """Return constructor arguments of the preconditioner, with `model_type` and the network's.

    Raises:
        ValueError: a tensor is missing that every such network has.
    """
    entries = {m.groups(): None for m in map(_ENTRY.match, shapes) if m}  # ordered, no duplicates
    sizes = sorted({int(size) for _, size, _ in entries}, reverse=True)
    if not sizes:
        raise ValueError("no U-Net blocks among the tensors")
    song = f"model.dec.{sizes[0]}x{sizes[0]}_aux_norm.weight" in shapes
    first = _shape(shapes, f"model.enc.{sizes[0]}x{sizes[0]}_conv.weight")
    embedding, noise = _shape(shapes, "model.map_layer0.weight")
    channels = first[0] if song else noise
    widths = [_shape(shapes, f"model.enc.{n}x{n}_block0.conv0.weight")[0] for n in sizes]
    blocks = [name for part, size, name in entries if part == "enc" and int(size) == sizes[0]]
    arguments: dict[str, Any] = {
        "model_type": "SongUNet" if song else "DhariwalUNet",
        "img_resolution": sizes[0],
        "img_channels": first[1],
        "label_dim": shapes.get("model.map_label.weight", (0, 0))[1],
        "augment_dim": shapes.get("model.map_augment.weight", (0, 0))[1],
        "model_channels": channels,
        "channel_mult": [width // channels for width in widths],
        "channel_mult_emb": embedding // channels,
        "num_blocks": sum(name.startswith("block") for name in blocks),
        "attn_resolutions": [n for n in sizes if f"model.enc.{n}x{n}_block0.qkv.weight" in shapes],
    }
    return {**arguments, **_song(shapes, entries, noise // channels)} if song else arguments


def _song(shapes: Shapes, entries: Mapping[Any, Any], noise: int) -> dict[str, Any]:
    names = {name for _, _, name in entries}
    encoder = "skip" if "aux_skip" in names else "standard"
    taps = [shape[-1] for key, shape in shapes.items() if key.endswith("resample_filter")]
    return {
        "embedding_type": "fourier" if "model.map_noise.freqs" in shapes else "positional",
        "channel_mult_noise": noise,
        "encoder_type": "residual" if "aux_residual" in names else encoder,
        "decoder_type": "skip" if "aux_up" in names else "standard",
        # the values of the filter are among the tensors: here only its length is needed
        "resample_filter": [1, 3, 3, 1] if taps and taps[0] == 4 else [1, 1],
    }


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes or len(shapes[key]) < 2:
        raise ValueError(f"no tensor {key}")
    return shapes[key]
