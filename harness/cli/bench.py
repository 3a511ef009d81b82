"""`bench`: measure the cost of steps, samples and metrics here, used by forecasts of `plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import add_plugin_argument, bench_command, results_setting
from harness.cli.teacher_argument import parse_plugin
from harness.config.grid import load_grid, make_grid
from harness.config.matrix import Matrix, expand
from harness.config.schema import Grid, Launch
from harness.errors import EXIT_DONE, ConfigError
from harness.runner.devices import cores
from harness.store.store import ResultStore

if TYPE_CHECKING:
    from harness.train.machine import Machine

NETWORKS = ("small", "cifar10", "imagenet64")
SWITCHES = ("bf16", "channels_last", "compile")
ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--matrix", "--grid", metavar="GRID.yaml", help="every problem of a grid, and a forecast"
    )
    what.add_argument("--teacher", metavar="NAME", help="a teacher, with parameters if need be")
    what.add_argument(
        "--network",
        choices=NETWORKS,
        help="a network of a published architecture with random weights (default: small, 1.2M)",
    )
    parser.add_argument("--precond", metavar="NAME", help="without a grid (default: ctm)")
    parser.add_argument("--objective", metavar="NAME", help="without a grid (default: ctm)")
    parser.add_argument("--batch", type=int, help="without a grid (default: 32)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="instead of launch.device (default: auto)"
    )
    parser.add_argument(
        "--h", metavar="1,4,12", default="1,4,12", help="numbers of solver steps to measure"
    )
    parser.add_argument("--rounds", type=int, help="steps of each kind (default: 5)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--solvers", action="store_true", help="instead: how exact the solvers of the ODE are"
    )
    instead.add_argument(
        "--switches",
        nargs="?",
        const="bf16,channels_last",
        metavar="LIST",
        help="instead: what train.precision, .channels_last and .compile bring"
        " (default: bf16,channels_last; compile takes minutes)",
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--results", metavar="DIR", help="where measurements are kept")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=NAME",
        help="only some problems of a grid, e.g. teacher=gmm; repeat for more",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the grid, or of the one made of the flags; repeat for more",
    )
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Measure every problem, keep what was found, print it and the forecast of the grid."""
    _check_flags(args)
    grid = _grid(args)
    matrix = expand(grid, args.only, args.plugin)
    store = ResultStore(grid.results).prepare()
    if args.solvers:
        return _solvers(matrix, args)

    from harness.bench.forecast import forecast, problems, save
    from harness.bench.problem import measure, text

    machine = _machine(grid, by_grid=args.matrix is not None)
    if args.switches:
        return _switches(matrix, store, machine, args)
    records = []
    for spec in problems(matrix):
        record = measure(
            spec,
            matrix.request,
            Path(store.root),
            machine,
            rounds=args.rounds or ROUNDS,
            hs=_numbers(args.h),
        )
        save(store, record)
        records.append(record)
        if not args.json:
            print(text(record) + "\n", flush=True)
    expected = forecast(matrix, store, gpu=machine.device.type == "cuda")
    if args.json:
        steps = [{"label": r["label"], **step} for r in records for step in r["steps"]]
        kept = vars(expected) | {"total": expected.total} if args.matrix else None
        print(json.dumps({"steps": steps, "problems": records, "forecast": kept}, indent=1))
    elif args.matrix:
        print(expected.text(bench_command(args)))
    return EXIT_DONE


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse combinations of flags in which one would be ignored."""
    if args.rounds is not None and args.rounds < 1:
        raise ConfigError("bench: --rounds must be 1 or more")
    if args.only and not args.matrix:
        raise ConfigError("bench: --only chooses from a grid; give --matrix GRID.yaml")
    unread = {"a grid decides it (see --set)": ("precond", "objective", "batch")}
    if not args.matrix:
        unread = {}
    if args.solvers:
        unread["--solvers times nothing"] = ("rounds", "device", "batch")
    for why, names in unread.items():
        for name in names:
            if getattr(args, name) is not None:
                raise ConfigError(f"bench: --{name}: {why}; leave it out")


def _grid(args: argparse.Namespace) -> Grid:
    """The grid that was named, or one made of the flags."""
    moved = [results_setting(args.results)] if args.results else []
    moved += [f"launch.device={args.device}"] if args.device else []
    if args.matrix:
        return load_grid(args.matrix, [*args.set, *moved])
    import harness.bench.stand_in  # noqa: F401 - makes the teacher known

    stand_in = {"name": "stand-in", "params": {"network": args.network or "small"}}
    data = {
        "version": 1,
        "name": "bench",
        "axes": {
            "precond": [_ref(args.precond or "ctm")],
            "teacher": [_ref(args.teacher) if args.teacher else stand_in],
            "objective": [_ref(args.objective or "ctm")],
        },
        "train": {"batch": 32 if args.batch is None else args.batch},
        "budgets": [1],
        "evaluate": {"samples": 1000, "metrics": ["frechet"]},
        "report": {"baseline": _ref(args.precond or "ctm")["name"]},
    }
    return make_grid(data, [*args.set, *moved], "bench")


def _ref(text: str) -> dict[str, Any]:
    name, params = parse_plugin(text)
    return {"name": name, "params": params}


def _machine(grid: Grid, *, by_grid: bool) -> Machine:
    """The device and the threads that a worker of this grid would have."""
    import torch

    from harness.train.machine import Machine
    from harness.train.torch_settings import repeatable

    if by_grid:
        torch.set_num_threads(_threads(grid.launch))
    repeatable()
    return Machine.named(grid.launch.device, grid.train.precision)


def _threads(launch: Launch) -> int:
    return launch.threads or max(1, cores() // (launch.slots * launch.processes))


def _solvers(matrix: Matrix, args: argparse.Namespace) -> int:
    from harness.bench.solvers import measure_solvers, text

    found = measure_solvers(matrix.specs[0], _numbers(args.h))
    print(json.dumps(found, indent=1) if args.json else text(found))
    return EXIT_DONE


def _switches(
    matrix: Matrix, store: ResultStore, machine: Machine, args: argparse.Namespace
) -> int:
    from harness.bench.switches import measure_switches, text

    names, h = args.switches.split(","), _numbers(args.h)[0]
    if not set(names) <= set(SWITCHES):
        raise ConfigError(f"bench --switches: {args.switches}: choose from {', '.join(SWITCHES)}")
    spec, results = matrix.specs[0], Path(store.root)
    rounds = args.rounds or ROUNDS
    rows = measure_switches(spec, matrix.request, results, machine, names, h=h, rounds=rounds)
    print(json.dumps(rows, indent=1) if args.json else text(rows, h))
    return EXIT_DONE


def _numbers(text: str) -> list[int]:
    if not all(h.isdigit() and int(h) for h in text.split(",")):
        raise ConfigError(f"bench: --h {text}: write numbers of solver steps, e.g. --h 1,4,12")
    return [int(h) for h in text.split(",")]
