"""`sample`: samples of a run or of a published student as images or arrays, which `fid` reads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.runs import student_path
from harness.cli import add_plugin_argument
from harness.config.schema import PluginRef
from harness.errors import EXIT_DONE, ConfigError

if TYPE_CHECKING:
    from harness.api import TrainedStudent
    from harness.evaluate.draw import Order, Parts

EPILOG = """\
  python -m harness sample ctm-unet-ctm-s0-0123456789 --nfe 2 --n 5000 --out samples.zip
  python -m harness sample cd_imagenet64_lpips.pt --nfe 1 --n 50000 --out samples --processes 8
  python -m harness fid samples.zip digits.zip

Sample k depends on --seed and k alone. A command that was stopped continues where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sample`."""
    parser.epilog = EPILOG
    parser.add_argument("student", metavar="RUN|FILE", help="a run's id or folder, or a file")
    parser.add_argument("--n", type=int, required=True, metavar="N", help="how many samples")
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="DIR or x.zip of PNG files, or x.npz"
    )
    parser.add_argument("--nfe", type=int, default=1, metavar="N", help="steps (default: 1)")
    parser.add_argument("--sampler", metavar="NAME", help="default: the one it was trained for")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--labels", type=int, nargs="+", metavar="K", help="classes, taken in turn (default: drawn)"
    )
    parser.add_argument("--rounding", choices=["edm", "ctm"], default="edm", help="to uint8")
    parser.add_argument("--grid", metavar="FILE.png", help="the first 64 samples as one picture")
    parser.add_argument("--format", default="auto", metavar="NAME", help="see `list students`")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the runs are")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="one a GPU")
    parser.add_argument("--batch", type=int, metavar="N", help="default: 256 images, 1024 vectors")
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Draw what is missing, put it together, say where it is."""
    if min(args.n, args.nfe, args.processes, args.batch or 1) < 1:
        raise ConfigError("sample: --n, --nfe, --processes and --batch must be 1 or more")
    path = student_path(args.student, args.results)
    ref = PluginRef.model_validate(args.format)
    source = (str(path), ref.name, ref.params, args.device, args.plugin)
    student = _load(*source)
    from harness.evaluate.draw import Order, Parts, check_order
    from harness.evaluate.images import is_image

    spec, out = student.spec, Path(args.out)
    images = is_image(spec.shape)
    if not images and out.suffix.lower() != ".npz":
        raise ConfigError(f"--out {out}: samples of shape {list(spec.shape)} go into an .npz")
    if args.grid and (not images or spec.shape[0] not in (1, 3)):
        raise ConfigError(f"--grid: samples of shape {list(spec.shape)} are no pictures")
    sampler = spec.walk(args.sampler, args.nfe).sampler.text
    block = args.batch or (256 if images else 1024)
    order = Order(
        *(spec.digest, args.n, args.nfe, sampler, args.seed, args.labels, args.rounding, block)
    )
    check_order(order, spec)
    parts = Parts(out, order)
    _draw(student, source, order, parts, args.processes)
    if args.grid:
        _picture(parts, Path(args.grid))
    parts.finish()
    print(f"{out}: {args.n} samples, {sampler} at NFE {args.nfe}, seed {args.seed}")
    return EXIT_DONE


def _load(path: str, name: str, params: dict[str, Any], device: str, plugins: list[str]) -> Any:
    """The student on its device; in a process of its own, on a GPU of its own."""
    import torch

    from harness.api import load_student
    from harness.registry import registry
    from harness.train.torch_settings import repeatable

    for plugin in plugins:
        registry.load_file(plugin)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("sample: torch sees no GPU here; use --device cpu")
    repeatable()
    gpu = device != "cpu" and torch.cuda.is_available()
    return load_student(path, name, **params).to(f"cuda:{_rank()}" if gpu else "cpu")


def _rank() -> int:
    """Which GPU this process takes."""
    import multiprocessing

    import torch

    own = multiprocessing.current_process()._identity  # type: ignore[attr-defined]
    return (own[0] - 1 if own else 0) % torch.cuda.device_count()


#: the student of a process that draws for another
_held: list[TrainedStudent] = []


def _start(source: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _held.append(_load(*source))


def _one(order: Order, start: int) -> tuple[int, Any]:
    from harness.evaluate.draw import draw_block

    return start, draw_block(_held[0], order, start)


def _draw(
    student: TrainedStudent, source: tuple[Any, ...], order: Order, parts: Parts, processes: int
) -> None:
    """Draw all missing blocks, in this process or in several, and keep each as it comes."""
    from tqdm import tqdm

    missing = parts.missing
    left = sum(min(order.block, order.n - start) for start in missing)
    with tqdm(total=order.n, initial=order.n - left, unit="sample", disable=None) as bar:
        for start, block in _drawn(student, source, order, missing, processes):
            parts.keep(start, block)
            bar.update(len(block["x"]))


def _drawn(
    student: TrainedStudent,
    source: tuple[Any, ...],
    order: Order,
    missing: list[int],
    processes: int,
) -> Iterator[tuple[int, Any]]:
    from harness.evaluate.draw import draw_block

    if processes == 1 or len(missing) < 2:
        for start in missing:
            yield start, draw_block(student, order, start)
        return
    from functools import partial

    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(
        min(processes, len(missing)), get_context("spawn"), _start, (source, threads)
    )
    try:
        yield from pool.map(partial(_one, order), missing)
    finally:
        pool.shutdown(cancel_futures=True)


def _picture(parts: Parts, path: Path) -> None:
    import numpy as np
    import torch

    from harness.evaluate.pictures import COUNT, save_picture

    found: list[Any] = []
    for block in parts.blocks():
        found += list(block["x"][: COUNT - len(found)])
        if len(found) == COUNT:
            break
    pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
    save_picture(path, pixels.float() / 127.5 - 1)
