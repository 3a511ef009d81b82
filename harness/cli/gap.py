"""`gap`: preconditionings before training on a (t, s) grid, as a table and heat maps."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.teacher_argument import (
    add_teacher_argument,
    make_precond,
    make_teacher,
    parse_plugin,
)
from harness.errors import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `gap`."""
    parser.add_argument(
        "names", nargs="*", metavar="PRECOND", help="preconditionings (default: all)"
    )
    parser.add_argument(
        "--levels", type=int, default=12, help="noise levels of the heat map (default: 12)"
    )
    parser.add_argument("--samples", type=int, default=2048, help="of the data (default: 2048)")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: RESULTS/tables/gap/TEACHER-DIGEST)"
    )
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print the jumps a few-step sampler makes; write the whole grid as csv and heat maps.

    A report on the same results folder finds the csv by the teacher's digest and shows it too.
    """
    import pandas as pd

    from harness.api import list_preconds
    from harness.core.schedule import karras
    from harness.evaluate.gap import measure_gaps
    from harness.report.plots.draw import gap_maps
    from harness.store.files import write_atomic
    from harness.store.store import ResultStore

    if args.levels < 3 or args.samples < 2:
        from harness.errors import ConfigError

        raise ConfigError("gap: --levels must be 3 or more and --samples 2 or more")
    results = ResultStore(args.results).prepare().root
    teacher = make_teacher(args.teacher)
    names = args.names or list_preconds()
    preconds = {label(name): make_precond(name, teacher, Path(results)) for name in names}
    spec = teacher.spec
    data = teacher.dataset()
    sampler = measure_gaps(
        preconds, teacher, data, karras(6, spec.sigma_min, spec.sigma_max), args.samples
    )
    rows = [
        [name, f"{t:.4g} -> {s:.3g}", *(f"{value:.4f}" for value in gap[:4])]
        for (name, t, s), gap in sorted(
            sampler.items(), key=lambda item: (-item[0][1], -item[0][2])
        )
    ]
    headers = ["precond", "jump", "gap to t", "gap to s", "untrained error", "amplification"]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    print(
        "RMS over data; gaps are denoisers' (what training must change), errors are samples';"
        " amplification\nis the error of a sample that an error of 1 in F makes.\n"
    )
    levels = karras(args.levels, spec.sigma_min, spec.sigma_max)
    table = measure_gaps(preconds, teacher, data, levels, args.samples)
    name = re.sub(r"[^A-Za-z0-9]+", "-", parse_plugin(args.teacher)[0])
    place = Path(results) / "tables" / "gap" / f"{name}-{spec.digest[:8]}"
    folder = Path(args.out) if args.out else place
    known = {"teacher": args.teacher, "digest": spec.digest}
    frame = pd.DataFrame(
        [{**known, "precond": n, "t": t, "s": s, **g._asdict()} for (n, t, s), g in table.items()]
    )
    write_atomic(folder / "gap.csv", frame.to_csv(index=False))
    written = [path.name for plot in gap_maps(frame, args.teacher) for path in plot.save(folder)]
    print(f"written: {folder}/gap.csv, {', '.join(written)}")
    return EXIT_DONE


def label(text: str) -> str:
    """A preconditioning as tables call it: `analytic: {centre: true}` is analytic(centre=true)."""
    from harness.store.records import PluginSpec

    name, given = parse_plugin(text)
    return PluginSpec(name, 0, given, given).label
