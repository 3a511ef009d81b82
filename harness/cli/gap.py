"""`gap`: what every strategy is like before training, on a (t, s) grid, as table and picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.teacher_argument import add_teacher_argument, make_precond, make_teacher
from harness.errors import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `gap`."""
    parser.add_argument("names", nargs="*", metavar="PRECOND", help="strategies (default: all)")
    parser.add_argument("--levels", type=int, default=12, help="noise levels of the heat map")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RESULTS/tables/gap)")
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print the jumps a few-step sampler makes; write the whole grid as csv and heat maps."""
    import pandas as pd

    from harness.api import list_preconds
    from harness.core.schedule import karras
    from harness.evaluate.gap import Gap, measure_gaps
    from harness.report.heatmap import draw
    from harness.store.files import write_atomic
    from harness.store.store import ResultStore

    if args.levels < 3 or args.samples < 2:
        from harness.errors import ConfigError

        raise ConfigError("gap: --levels must be 3 or more and --samples 2 or more")
    results = ResultStore(args.results).prepare().root
    teacher = make_teacher(args.teacher)
    names = args.names or list_preconds()
    preconds = {name: make_precond(name, teacher, Path(results)) for name in names}
    spec = teacher.spec
    data = teacher.dataset()
    sampler = measure_gaps(
        preconds, teacher, data, karras(6, spec.sigma_min, spec.sigma_max), args.samples
    )
    rows = [
        [name, f"{t:.4g} -> {s:.3g}", *(f"{value:.4f}" for value in gap)]
        for (name, t, s), gap in sorted(
            sampler.items(), key=lambda item: (-item[0][1], -item[0][2])
        )
    ]
    headers = ["precond", "jump", "gap to t", "gap to s", "untrained error"]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    print("RMS over data; gaps are denoisers' (what training must change), errors are samples'.\n")
    levels = karras(args.levels, spec.sigma_min, spec.sigma_max)
    table = measure_gaps(preconds, teacher, data, levels, args.samples)
    folder = Path(args.out) if args.out else Path(results) / "tables" / "gap"
    records = [{"precond": n, "t": t, "s": s, **g._asdict()} for (n, t, s), g in table.items()]
    write_atomic(folder / "gap.csv", pd.DataFrame(records).to_csv(index=False))
    for field in Gap._fields:
        panels: dict[str, dict[tuple[float, float], float]] = {name: {} for name in preconds}
        for (name, t, s), gap in table.items():
            panels[name][t, s] = getattr(gap, field)
        title = {
            "to_t": "Consistency gap to the teacher at t (RMS)",
            "to_s": "Consistency gap to the teacher at s (RMS)",
            "untrained": "Error of the untrained student (RMS)",
        }[field]
        draw(panels, f"{title}, {args.teacher}", folder / f"{field}.png")
    print(f"written: {folder}/gap.csv and " + ", ".join(f"{f}.png" for f in Gap._fields))
    return EXIT_DONE
