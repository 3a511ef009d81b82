"""Draw samples of a student to files: block by block, stored at once, merged at the end.

Sample k is a function of (seed, k) and the student alone, and the blocks are fixed, so that results
are bitwise independent of the number of processes and of interruptions.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.api import ConfigError
from harness.core.sampling import evaluation_labels
from harness.evaluate.images import is_image, quantise
from harness.store.files import read_json, write_atomic, write_json
from harness.store.records import Rounding

if TYPE_CHECKING:
    from harness.api import StudentSpec, TrainedStudent

Array = np.ndarray


@dataclass(frozen=True)
class Order:
    """A request for samples 0..n-1 of a student (given by its digest), in blocks of `block`.

    `labels`: classes that samples take in turn; None draws them at random, as in an evaluation.
    """

    student: str
    n: int
    nfe: int
    sampler: str
    seed: int
    labels: list[int] | None
    rounding: Rounding
    block: int

    @property
    def starts(self) -> range:
        """Index of the first sample of every block."""
        return range(0, self.n, self.block)


def check_order(order: Order, spec: StudentSpec) -> None:
    """Check that the student can be sampled as ordered.

    Raises:
        ConfigError: the sampler or the labels do not fit the student.
    """
    spec.walk(order.sampler, order.nfe)
    if order.labels is not None and not spec.classes:
        raise ConfigError("--labels: the student has no classes; leave it out")
    if any(not 0 <= label < spec.classes for label in order.labels or ()):
        raise ConfigError(f"--labels: the student's classes are 0 to {spec.classes - 1}")


def draw_block(student: TrainedStudent, order: Order, start: int) -> dict[str, Array]:
    """Draw the block from sample `start`: `x`, uint8 [B, H, W, C] or float32 [B, d]; `y` int64 [B].

    Raises:
        ConfigError: a sample is not finite.
    """
    spec, count = student.spec, min(order.block, order.n - start)
    indices = torch.arange(start, start + count)
    if order.labels is None:
        drawn = evaluation_labels(order.seed, indices, spec.classes)
        labels = None if drawn is None else drawn.argmax(1)
    else:
        labels = torch.tensor(order.labels)[indices % len(order.labels)]
    x = student.sample(count, order.nfe, order.seed, order.sampler, labels, start)
    if not bool(x.isfinite().all()):
        raise ConfigError(f"samples {start} and on are not finite: the student has diverged")
    if is_image(spec.shape):
        x = quantise(x, order.rounding).permute(0, 2, 3, 1)
    found = {"x": x.cpu().contiguous().numpy()}
    return found if labels is None else found | {"y": labels.numpy()}


class Parts:
    """The blocks drawn so far, in the folder OUT.parts beside the output OUT.

    Raises:
        ConfigError: the folder holds blocks of another order, or the output exists already.
    """

    def __init__(self, out: Path, order: Order) -> None:
        self.out, self.order = out, order
        self.folder = out.with_name(f"{out.name}.parts")
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise ConfigError(f"{out} is there already; delete it, or choose another --out")
        told = self.folder / "sampling.json"
        if told.exists() and read_json(told) != asdict(order):
            raise ConfigError(
                f"{self.folder} holds the beginning of other samples (another student, sampler,"
                " seed or number); delete it, or choose another --out"
            )
        write_json(told, asdict(order))

    @property
    def missing(self) -> list[int]:
        """Indices of the first samples of blocks that are still to be drawn."""
        return [start for start in self.order.starts if not self._path(start).exists()]

    def keep(self, start: int, block: dict[str, Array]) -> None:
        """Write a block atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **block)
        write_atomic(self._path(start), buffer.getvalue())

    def blocks(self) -> Iterator[dict[str, Array]]:
        """All blocks in order."""
        for start in self.order.starts:
            with np.load(self._path(start), allow_pickle=False) as file:
                yield dict(file)

    def finish(self) -> None:
        """Write the output (.npz, .zip, or a folder of PNGs) from all blocks and remove them."""
        aside = self.folder / "out"
        if self.out.suffix.lower() == ".npz":
            _write_npz(aside, list(self.blocks()))
        elif self.out.suffix.lower() == ".zip":
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
                for name, data in _files(self.blocks()):
                    archive.writestr(zipfile.ZipInfo(name), data)
        else:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for name, data in _files(self.blocks()):
                (aside / name).write_bytes(data)
            if self.out.is_dir():
                self.out.rmdir()
        aside.replace(self.out)
        shutil.rmtree(self.folder)

    def _path(self, start: int) -> Path:
        return self.folder / f"block-{start:08d}.npz"


def _write_npz(path: Path, blocks: list[dict[str, Array]]) -> None:
    """Write arr_0, the samples, and arr_1, their classes if any, as ADM's evaluation reads them."""
    names = {"x": "arr_0", "y": "arr_1"}
    arrays = {names[key]: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _files(blocks: Iterator[dict[str, Array]]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of one PNG per sample, and of dataset.json with classes as in EDM."""
    from PIL import Image

    labels: list[list[Any]] = []
    k = 0
    for block in blocks:
        for i, pixels in enumerate(block["x"]):
            buffer, name = io.BytesIO(), f"img{k:08d}.png"
            Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
            if "y" in block:
                labels.append([name, int(block["y"][i])])
            yield name, buffer.getvalue()
            k += 1
    if labels:
        yield "dataset.json", json.dumps({"labels": labels}).encode()
