"""Sample grids as PNG: the first samples of an evaluation, from the same noise in every run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import StudentLike, TeacherSpec
    from harness.core.sampling import Walk

#: path of a file with samples, without suffix -> the student and how it is sampled
Walks = dict[Path, tuple["StudentLike", "Walk"]]
COUNT, COLUMNS, GAP = 64, 8, 2
SMALLEST = 32  # smaller images are enlarged by an integer factor, for visibility


def save_pictures(walks: Walks, spec: TeacherSpec, seed: int, device: Any) -> None:
    """Write PATH.png for every entry of `walks`, unless the file exists.

    It shows samples 0..63 of the evaluation with this `seed`: noise and labels are the same for
    every preconditioning and budget. Nothing is written for samples that are not grey or RGB
    images.
    """
    if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
        return
    import torch

    from harness.core.sampling import evaluation_labels, fresh_noise, initial_noise

    indices = torch.arange(COUNT, device=device)
    noise = initial_noise(seed, indices, spec.shape, spec.sigma_max, torch.float32)
    labels = evaluation_labels(seed, indices, spec.classes)
    fresh = fresh_noise(seed, indices, spec.shape)
    for stem, (student, walk) in walks.items():
        path = stem.with_name(f"{stem.name}.png")
        if not path.exists():
            save_picture(path, walk.end(student, noise, fresh, labels))


def save_picture(path: Path, samples: Tensor) -> None:
    """Write `samples` [B, 1 or 3, H, W] in [-1, 1] as a PNG with eight images per row."""
    import numpy as np
    from PIL import Image

    from harness.evaluate.images import quantise

    images = quantise(samples.detach().nan_to_num()).cpu().permute(0, 2, 3, 1).numpy()
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
