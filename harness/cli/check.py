"""`check`: the contract of any preconditioning, and which ones are the same function."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.teacher_argument import add_teacher_argument, make_precond, make_teacher
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, HarnessError

if TYPE_CHECKING:
    from harness.api import Preconditioning, Teacher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `check`."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="PRECOND",
        help="strategies, e.g. ctm or 'ctm: {outer: mixed}' (default: all, one row each)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--equivalence", action="store_true", help="group strategies with equal coefficients"
    )
    instead.add_argument(
        "--coefficients", action="store_true", help="print skip and out at the sampler's own jumps"
    )
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Exit code 1 if a check fails."""
    teacher = make_teacher(args.teacher)
    results = Path(args.results)
    if args.equivalence:
        return _equivalence(args.names, teacher, results)
    if not args.names:
        return _check_all(teacher, results, args.coefficients)
    from harness.contract import check_precond

    failed = False
    preconds = {name: make_precond(name, teacher, results) for name in args.names}
    for name, precond in preconds.items():
        rows = []
        for finding in check_precond(precond):
            failed |= not finding.ok
            rows.append([name, finding.check, "ok" if finding.ok else "FAILED", finding.detail])
        print(tabulate(rows, tablefmt="plain"))
        if args.coefficients:
            _coefficients(precond)
    return EXIT_CELL_FAILED if failed else EXIT_DONE


def _check_all(teacher: Teacher, results: Path, coefficients: bool) -> int:
    """A row per registered strategy and a column per check; what is wrong is said below.

    A strategy that cannot be imported, made or calibrated fails by itself: the others are checked.
    """
    from harness.contract import check_precond

    made, unmade = _make_all(teacher, results)
    rows, wrong = [], list(unmade.items())
    for name, precond in made.items():
        findings = check_precond(precond)
        rows.append({"precond": name} | {f.check: "ok" if f.ok else "FAILED" for f in findings})
        wrong += [(f"{name}: {f.check}", f.detail) for f in findings if not f.ok]
    rows += [{"precond": name, "made": "FAILED"} for name in unmade]
    print(tabulate(rows, headers="keys", missingval="-"))
    print(f"\n{len(rows)} strategies on teacher {teacher.name}, {len(wrong)} failures")
    for what, why in wrong:
        print(f"{what}: {why}")
    if coefficients:
        for name, precond in made.items():
            print(f"\n{name}")
            _coefficients(precond)
    return EXIT_CELL_FAILED if wrong else EXIT_DONE


def _make_all(teacher: Teacher, results: Path) -> tuple[dict[str, Preconditioning], dict[str, str]]:
    """Every registered strategy with its default parameters; and why others could not be made."""
    from harness.api import list_preconds
    from harness.registry import registry

    made, unmade = {}, {}
    for name in list_preconds():
        try:
            made[name] = make_precond(name, teacher, results)
        except Exception as error:
            kind = "" if isinstance(error, HarnessError) else f"{type(error).__name__}: "
            unmade[name] = f"{kind}{error}"
    for broken in registry.broken:
        if broken.kind == "precond" and broken.origin.removeprefix("entry point ") not in unmade:
            unmade[broken.origin] = broken.error
    return made, unmade


def _equivalence(names: list[str], teacher: Teacher, results: Path) -> int:
    from harness.report.coefficients import same_function
    from harness.train.coefficients import fingerprint

    if names:
        preconds = {name: make_precond(name, teacher, results) for name in names}
    else:
        preconds, unmade = _make_all(teacher, results)
        for name, why in unmade.items():
            print(f"not compared: {name}: {why}")
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


def _coefficients(precond: Preconditioning) -> None:
    from harness.core.schedule import karras

    rows = []
    for nfe in (1, 2, 3, 5):
        nodes = karras(nfe + 1, precond.sigma_min, precond.sigma_max)
        skip, out, shift = precond.coeffs(nodes[:-1], nodes[1:])
        for k in range(nfe):
            row = [nfe, *(f"{float(v):.6g}" for v in (nodes[k], nodes[k + 1], skip[k], out[k]))]
            rows.append([*row, "-" if shift is None else f"{float(shift[k]):.6g}"])
    print(tabulate(rows, headers=["NFE", "t", "s", "skip", "out", "shift"], disable_numparse=True))
