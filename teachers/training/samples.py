"""Write samples of a teacher, and its data, to files for the command `fid`.

    python -m teachers.training.samples photos16 FOLDER --n 2500
    python -m harness fid FOLDER/teacher.npz FOLDER/reference.npz --extractor inception-fidhelper

FOLDER/training.npz holds draws of the training data, whose FID a perfect copy of the data has.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.api import Dataset, Teacher, create_teacher
from harness.core.random import normal
from harness.core.schedule import karras
from harness.core.solver import heun

BATCH = 64


def samples(teacher: Teacher, numbers: Tensor, steps: int) -> Tensor:
    """Samples of the teacher's ODE for these sample indices, [B, C, H, W] in [-1, 1]."""
    spec = teacher.spec
    noise = normal(0, "teacher samples", 0, numbers, spec.shape)
    nodes = karras(steps, spec.sigma_min, spec.sigma_max)
    with torch.no_grad():
        return heun(teacher.denoise, spec.sigma_max * noise, nodes)


def write(path: Path, batches: list[Tensor]) -> None:
    """Write images [B, C, H, W] as uint8 [N, H, W, C], rounded by EDM's rule."""
    pixels = (torch.cat(batches) * 127.5 + 128).clip(0, 255).to(torch.uint8)
    np.savez_compressed(path, pixels.permute(0, 2, 3, 1).contiguous().numpy())


def main() -> None:
    """Write teacher.npz, reference.npz and training.npz."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", help="a file of `teacher train`, or the name of a shipped one")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=5000, help="images of each kind")
    parser.add_argument(
        "--steps", type=int, default=18, help="nodes of the ODE, as EDM counts them"
    )
    args = parser.parse_args()
    teacher = create_teacher("unet", weights=args.weights)
    data: Dataset = teacher.dataset()
    blocks = torch.arange(args.n).split(BATCH)
    args.folder.mkdir(parents=True, exist_ok=True)
    for purpose in ("reference", "training"):
        drawn = [data.draw(0, purpose, numbers)[0] for numbers in blocks]
        write(args.folder / f"{purpose}.npz", drawn)
    made = [samples(teacher, numbers, args.steps) for numbers in blocks]
    write(args.folder / "teacher.npz", made)


if __name__ == "__main__":
    main()
