"""Conversion of samples to the images that extractors take: uint8 [B, C, H, W], C = 1 or 3."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api import ConfigError
from harness.store.records import Rounding


def quantise(x: Tensor, rounding: Rounding = "edm") -> Tensor:
    """Convert samples in [-1, 1] to uint8: clip(127.5 x + 128, 0, 255), truncated.

    This is EDM's rule (generate.py of github.com/NVlabs/edm), so that FIDs are comparable with
    published ones; it maps u / 127.5 - 1 back to u. Rounding `ctm` truncates clip(127.5 (x + 1), 0,
    255) instead, as the code of consistency models and CTM does: half a grey level darker on
    average.
    """
    shift = 128 if rounding == "edm" else 127.5
    return (x * 127.5 + shift).clip(0, 255).to(torch.uint8)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape [C, H, W] are images; vectors [d] are not."""
    return len(shape) == 3


def check_images(x: Tensor, who: str) -> Tensor:
    """Return x if it is uint8 [B, 1 or 3, H, W].

    Raises:
        ConfigError: it is not, e.g. vectors given to an image extractor.
    """
    if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ConfigError(
            f"extractor {who!r} takes images, uint8 [B, 1 or 3, H, W], but was given"
            f" {str(x.dtype).removeprefix('torch.')} {list(x.shape)}; use extractor 'raw' for"
            " other data"
        )
    return x


def to_rgb(x: Tensor) -> Tensor:
    """Repeat grey images to three channels; RGB images are returned unchanged."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def to_grey(x: Tensor) -> Tensor:
    """Float [B, 1, H, W] in 0..255, the mean of the channels: the inverse of repeating grey."""
    return x.float().mean(1, keepdim=True)
