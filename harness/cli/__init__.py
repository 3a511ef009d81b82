"""The command line: one file per command, each imported only when its command is used."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness import __version__
from harness.cli.waiting import Waiting
from harness.core.progress import listening
from harness.errors import (
    EXIT_CELL_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    HarnessError,
    file_sentence,
)

#: verb -> (module, one line of help); the module has add_arguments(parser) and main(args) -> int
VERBS = {
    "run": ("harness.cli.run", "train and evaluate every missing cell of a grid, then report"),
    "plan": ("harness.cli.plan", "show what a grid would run, and what is missing"),
    "list": ("harness.cli.listing", "list plugins: preconds, teachers, objectives, metrics, ..."),
    "check": (
        "harness.cli.check",
        "run the contract tests on preconditionings, or try one plugin of any kind",
    ),
    "new-precond": ("harness.cli.new_precond", "write a package for a preconditioning of your own"),
    "calibrate": ("harness.cli.calibrate", "measure a teacher for a preconditioning, timed"),
    "bench": ("harness.cli.bench", "what steps, samples and metrics cost on this machine"),
    "gap": ("harness.cli.gap", "consistency gap and untrained error of every preconditioning"),
    "screen": ("harness.cli.screen", "rank a grid's preconditionings without training anything"),
    "teacher": ("harness.cli.teacher", "convert a published checkpoint, or train a teacher"),
    "eval": ("harness.cli.evaluate", "evaluate finished runs further, without training"),
    "sample": ("harness.cli.sample", "samples of a run or a published student, as files"),
    "export": (
        "harness.cli.export",
        "a student as a folder that torch and safetensors can use",
    ),
    "fid": ("harness.cli.fid", "compare two sets of images: folders, zips, .npz; no training"),
    "status": ("harness.cli.status", "one line per run of a results folder"),
    "show": ("harness.cli.show", "everything known of one run"),
    "report": ("harness.cli.report", "tables of one results folder or several"),
    "rm": ("harness.cli.rm", "delete runs"),
    "gc": ("harness.cli.gc", "delete artifacts that no run needs, and old checkpoints"),
    "publish": ("harness.cli.publish", "copy a grid's runs and tables to where they are committed"),
    "leaderboard": ("harness.cli.leaderboard", "the leaderboard alone, or --update README.md"),
}

EPILOG = """\
exit codes: 0 all done, 1 some cell failed, 2 bad input (nothing was started), 130 interrupted

the main job:           python -m harness run --matrix grids/quickstart.yaml
what would it do:       python -m harness plan --matrix grids/quickstart.yaml
a new preconditioning:  python -m harness new-precond NAME; python -m harness check NAME
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, dispatch, and turn a user's mistake into one sentence and an exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # é where only ASCII is understood
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Is this preconditioning faster, where, and by how much?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if word in VERBS), None)
    for verb, (module, text) in VERBS.items():
        sub = verbs.add_parser(
            verb,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb == chosen:
            importlib.import_module(module).add_arguments(sub)
    args = parser.parse_args(argv)
    try:
        if getattr(args, "plugin", None):
            from harness.registry import registry

            for path in args.plugin:
                registry.load_file(path)
        with _notes(), Waiting() as waiting, listening(waiting):
            code: int = importlib.import_module(VERBS[args.verb][0]).main(args)
        return code
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped: nobody reads the output any more", file=sys.stderr)
        return EXIT_CELL_FAILED if args.verb == "run" else EXIT_DONE
    except OSError as error:
        if error.errno is None:
            raise
        print(f"error: {file_sentence(error)}", file=sys.stderr)
        return EXIT_CELL_FAILED


@contextmanager
def _notes() -> Iterator[None]:
    """Within the `with` block, print warnings as notes of one line on stderr."""

    def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
        return f"{'note' if category is UserWarning else category.__name__}: {message}\n"

    before, warnings.formatwarning = warnings.formatwarning, note
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
            yield
    finally:
        warnings.formatwarning = before


def bench_command(args: argparse.Namespace) -> str:
    """The `bench` command for a grid, with the same plugins and overrides, for display."""
    options = [("--matrix", args.matrix)]
    options += [("--set", text) for text in args.set] + [("--plugin", p) for p in args.plugin]
    return shlex.join(["python", "-m", "harness", "bench", *(w for pair in options for w in pair)])


def results_setting(folder: str) -> str:
    """`--results DIR` as a `--set`: a folder's name is text, also where YAML reads a number."""
    return f"results={json.dumps(folder)}"


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Add --plugin FILE, for every command that uses plugins."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="load plugins from a Python file; this runs its code",
    )


def add_grid_arguments(parser: argparse.ArgumentParser, *, shard: bool = True) -> None:
    """--matrix, --set, --results, --only, --shard, --plugin: which cells, and where they go."""
    parser.add_argument("--matrix", required=True, metavar="GRID.yaml", help="the grid to expand")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the grid, e.g. train.lr=1e-4; repeat for more",
    )
    parser.add_argument(
        "--results",
        dest="set",
        action="append",
        type=results_setting,
        metavar="DIR",
        help="the results folder, instead of the grid's",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=NAME",
        help="run only some cells, e.g. precond=ctm or seed=0; repeat for more",
    )
    if shard:
        parser.add_argument(
            "--quick",
            action="store_true",
            help="try the grid in minutes: one seed, 20 steps, few samples, small calibrations;"
            " name and results folder end in -quick",
        )
        parser.add_argument(
            "--shard",
            metavar="I/N",
            help="only every N-th cell from the I-th on; tables show them all",
        )
    add_plugin_argument(parser)
