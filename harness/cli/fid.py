"""`fid`: compare two sets of images on disk, without any training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Extractor, create
from harness.cli import add_plugin_argument
from harness.errors import EXIT_DONE, ConfigError
from harness.registry import registry

if TYPE_CHECKING:
    from harness.evaluate.compare import Comparison, Side

EPILOG = """\
A are generated images, B real ones: the order matters for precision and recall.

  python -m harness fid samples/ cifar10.zip --extractor inception --metrics frechet kid
  python -m harness fid samples.npz cifar10-32x32.npz --reference-n 50000   EDM's statistics
  python -m harness fid cifar10.zip --save cifar10.npz                      statistics of a set
  python -m harness fid --verify-weights --allow-download                   fetch and check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `fid`."""
    parser.epilog = EPILOG
    parser.add_argument("generated", nargs="?", metavar="A", help="folder, .zip or .npz of images")
    parser.add_argument("reference", nargs="?", metavar="B", help="the same, or .npz statistics")
    parser.add_argument("--extractor", default="inception", metavar="NAME", help="see `list`")
    parser.add_argument("--metrics", nargs="+", default=["frechet"], metavar="NAME")
    parser.add_argument("--weights", metavar="FILE", help="weights of the extractor")
    parser.add_argument("--allow-download", action="store_true", help="fetch missing weights")
    parser.add_argument("--verify-weights", action="store_true", help="check the weights' hash")
    parser.add_argument("--reference-n", type=int, metavar="N", help="images behind mu and sigma")
    parser.add_argument("--save", metavar="FILE.npz", help="keep the statistics of the last set")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time")
    parser.add_argument(
        "--fast", action="store_true", help="Inception channels-last: quicker, equal up to rounding"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Check everything, extract each set once, print every metric."""
    _check_flags(args)
    extractor = _extractor(args)
    metrics = {name: create("metric", name) for name in dict.fromkeys(args.metrics)}
    from harness.evaluate.compare import check, compare, open_side, statistics
    from harness.train.torch_settings import arithmetic

    paths = [path for path in (args.generated, args.reference) if path]
    sides = [open_side(path, extractor, args.reference_n) for path in paths]
    _check_sides(args, sides)
    check(metrics if args.reference else {}, extractor, sides)
    extractor.ready(allow_download=args.allow_download)
    if args.verify_weights:
        print(f"{extractor.id}: the weights are there and their sha256 is right")
    if not sides:
        return EXIT_DONE
    device = _device(args.device)
    extractor.to(device)
    with arithmetic("fp32"):
        found, last = compare(
            sides,
            extractor,
            metrics if args.reference else {},
            batch=args.batch,
            device=device,
            progress=_progress,
        )
    if args.save:
        path = statistics(sides[-1], last).save(Path(args.save))
        print(f"statistics of {paths[-1]} written to {path}", file=sys.stderr)
    if found.scores:
        _print(found, paths, args.json)
    return EXIT_DONE


def _check_flags(args: argparse.Namespace) -> None:
    if not args.generated and not args.verify_weights:
        raise ConfigError("fid: give two sets of images, A and B; see `fid --help`")
    if args.generated and not (args.reference or args.save):
        raise ConfigError(f"fid: compare {args.generated} with what? Give B, or --save FILE.npz")
    if args.batch < 1:
        raise ConfigError(f"--batch {args.batch}: it must be 1 or more")
    if args.save and not Path(args.save).is_dir():
        if not args.save.endswith(".npz"):
            raise ConfigError(f"--save {args.save}: give a name ending in .npz, or a folder")
        if not Path(args.save).parent.is_dir():
            raise ConfigError(f"--save {args.save}: there is no folder {Path(args.save).parent}")


def _check_sides(args: argparse.Namespace, sides: list[Side]) -> None:
    from harness.evaluate.reference import Reference

    statistics = [isinstance(side, Reference) for side in sides]
    if len(sides) == 2 and statistics == [True, False]:
        raise ConfigError(f"fid: {args.generated} holds statistics, so give it second, as B")
    if args.reference_n is not None and not any(statistics):
        raise ConfigError(
            "--reference-n: it is for statistics, images are counted; leave it out, or give"
            " an .npz of mu and sigma as B"
        )
    if args.save and statistics and statistics[-1]:
        raise ConfigError(f"--save: {sides[-1].path} holds statistics already")


def _extractor(args: argparse.Namespace) -> Extractor:
    name, known = args.extractor, registry.get("extractor", args.extractor).Params.model_fields
    given = {"weights": args.weights, "fast": args.fast}
    params = {key: value for key, value in given.items() if value}
    for key in params:
        if key not in known:
            raise ConfigError(f"--{key}: extractor {name!r} takes no such parameter; leave it out")
    made: Extractor = create("extractor", name, params)
    return made


def _device(name: str) -> Any:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _progress(batches: Iterable[Any], n: int, what: str) -> Iterable[Any]:
    """A bar on a terminal, silence in a log."""
    from tqdm import tqdm

    with tqdm(total=n, desc=Path(what).name, unit="img", disable=None) as bar:
        for images in batches:
            yield images
            bar.update(len(images))


def _print(found: Comparison, paths: list[str], as_json: bool) -> None:
    from harness.evaluate.naming import label

    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        results = [
            {"metric": name, "name": label(name, found.extractor), **score._asdict()}
            for name, score in found.scores.items()
        ]
        record = {**asdict(found), "generated": paths[0], "reference": paths[1], "scores": results}
        print(json.dumps(record))
        return
    for name, (value, std) in found.scores.items():
        spread = "" if std is None else f" ± {std:.6g}"
        print(f"{label(name, found.extractor)}  {value:.6g}{spread}")
    print(f"{found.extractor}, n={found.n} against {found.reference_n}, {found.dim} dimensions")
