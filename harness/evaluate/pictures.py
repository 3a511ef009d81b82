"""Sample grids as PNG: the first samples of an evaluation, the same noise for every strategy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COUNT, COLUMNS, GAP = 64, 8, 2
SMALLEST = 32  # tiny images are enlarged by a whole factor, so that a person can see them


def save_picture(path: Path, samples: Tensor) -> bool:
    """Write the first 64 of `samples` [B, 1 or 3, H, W] in [-1, 1], row by row, white between.

    Values are rounded to bytes as EDM does (x 127.5 + 128, cut off). Returns whether the samples
    are images at all; nothing is written if they are not, or if the picture is there already.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        return False
    if path.exists():
        return True
    import numpy as np
    from PIL import Image

    pixels = samples[:COUNT].detach().float().nan_to_num().mul(127.5).add(128).clamp(0, 255)
    images = pixels.byte().cpu().permute(0, 2, 3, 1).numpy()
    factor = max(1, -(-SMALLEST // images.shape[1]))
    images = images.repeat(factor, 1).repeat(factor, 2)
    count, height, width, channels = images.shape
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8
    )
    for k, image in enumerate(images):
        top = GAP + k // columns * (height + GAP)
        left = GAP + k % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(aside, "PNG")
    aside.replace(path)
    return True
