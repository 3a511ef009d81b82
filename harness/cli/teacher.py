"""`teacher`: convert published checkpoints, or train a teacher."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from harness.errors import EXIT_DONE
from harness.registry import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`teacher convert` and `teacher train`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    convert = actions.add_parser(
        "convert", help="a published .pkl into safetensors; nothing in the file is executed"
    )
    convert.add_argument("source", metavar="IN.pkl", help="a checkpoint as EDM publishes them")
    convert.add_argument(
        "out", metavar="OUT.safetensors", help="what to write; teacher `edm` reads it"
    )
    train = actions.add_parser("train", help="train a U-Net by EDM's recipe; resumes by itself")
    train.add_argument(
        "--config", required=True, metavar="FILE.yaml", help="network, data and recipe"
    )
    train.add_argument(
        "--out",
        required=True,
        metavar="OUT.safetensors",
        help="what to write; its progress beside it",
    )
    train.add_argument("--processes", type=int, default=1, help="processes on this machine")


def main(args: argparse.Namespace) -> int:
    """Convert or train; print the file written and its digest."""
    out = Path(args.out)
    if args.action == "convert":
        registry.get("teacher", "edm").convert(Path(args.source), out)
    else:
        kind = registry.get("teacher", "unet")
        config = kind.recipe(Path(args.config))
        if args.processes > 1 and "RANK" not in os.environ:
            return _group(args)
        kind.train(config, out, args.processes)
    if os.environ.get("RANK", "0") == "0":
        with out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        print(f"{out}  {out.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
    return EXIT_DONE


def _group(args: argparse.Namespace) -> int:
    """The same command in a group of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(args.processes), "-m", "harness", "teacher", "train"]
    command += ["--config", args.config, "--out", args.out, "--processes", str(args.processes)]
    return subprocess.run(command, check=False).returncode
