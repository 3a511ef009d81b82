"""`check`: the contract of any preconditioning, and which ones are the same function."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.teacher_argument import add_teacher_argument, make_precond, make_teacher
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `check`."""
    parser.add_argument(
        "names", nargs="*", metavar="PRECOND", help="strategies, e.g. ctm or 'ctm: {outer: mixed}'"
    )
    parser.add_argument(
        "--equivalence", action="store_true", help="group strategies with equal coefficients"
    )
    parser.add_argument(
        "--coefficients", action="store_true", help="print skip and out at the sampler's own jumps"
    )
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Exit code 1 if a check fails."""
    from harness.api import list_preconds

    teacher = make_teacher(args.teacher)
    names = args.names or list_preconds()
    preconds = {name: make_precond(name, teacher, Path(args.results)) for name in names}
    if args.equivalence:
        return _equivalence(preconds)
    failed = False
    from harness.contract import check_precond

    for name, precond in preconds.items():
        rows = []
        for finding in check_precond(precond):
            failed |= not finding.ok
            rows.append([name, finding.check, "ok" if finding.ok else "FAILED", finding.detail])
        print(tabulate(rows, tablefmt="plain"))
        if args.coefficients:
            _coefficients(precond)
    return EXIT_CELL_FAILED if failed else EXIT_DONE


def _equivalence(preconds: dict) -> int:
    from harness.report.frame import same_function
    from harness.train.coefficients import fingerprint

    groups: list[tuple[dict, list[str]]] = []
    for name, precond in preconds.items():
        mine = fingerprint(precond)
        for known, members in groups:
            if same_function(mine, known):
                members.append(name)
                break
        else:
            groups.append((mine, [name]))
    for _, members in groups:
        print(" = ".join(members) + ("   (one function: expect equal runs)" if members[1:] else ""))
    return EXIT_DONE


def _coefficients(precond: object) -> None:
    from harness.core.schedule import karras

    rows = []
    for nfe in (1, 2, 3, 5):
        nodes = karras(nfe + 1, precond.sigma_min, precond.sigma_max)
        skip, out, shift = precond.coeffs(nodes[:-1], nodes[1:])
        for k in range(nfe):
            row = [nfe, *(f"{float(v):.6g}" for v in (nodes[k], nodes[k + 1], skip[k], out[k]))]
            rows.append([*row, "-" if shift is None else f"{float(shift[k]):.6g}"])
    print(tabulate(rows, headers=["NFE", "t", "s", "skip", "out", "shift"], disable_numparse=True))
