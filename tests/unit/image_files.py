"""Small image sets in EDM's layout, made for tests."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(size: int = 8, mode: str = "RGB", seed: int = 0, kind: str = "PNG") -> bytes:
    """An image of random pixels."""
    channels = {"L": 0, "RGB": 3, "RGBA": 4}[mode]
    shape = (size, size, channels) if channels else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def layout(count: int = 7, classes: int | None = 3, **options) -> dict[str, bytes]:
    """Names and contents of an image set; `classes` None writes labels: null."""
    files = {f"00000/img{i:08d}.png": png(seed=i, **options) for i in range(count)}
    labels = None if classes is None else [[n, i % classes] for i, n in enumerate(files)]
    return files | {"dataset.json": json.dumps({"labels": labels}).encode()}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A stored zip of these files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
