"""`check`: test the contract of plugins, and find preconditionings that are the same function."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.check_plugin import KINDS, check_plugins
from harness.cli.teacher_argument import (
    add_teacher_argument,
    make_precond,
    make_teacher,
    precond_spec,
)
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, HarnessError
from harness.registry import blaming

if TYPE_CHECKING:
    from harness.api import Preconditioning, Teacher
    from harness.contract import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `check`."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="[KIND] NAME",
        help="preconditionings, e.g. ctm or 'ctm: {outer: mixed}' (default: all, a row each); with"
        f" another kind before them ({', '.join(KINDS)}) plugins of that kind",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--equivalence", action="store_true", help="group preconditionings with equal coefficients"
    )
    instead.add_argument(
        "--coefficients", action="store_true", help="print skip and out at the sampler's own jumps"
    )
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Exit code 1 if a check fails."""
    kind, *names = args.names or [""]
    if kind in KINDS:
        return check_plugins(kind, names, args.teacher)
    if kind == "precond":
        args.names = names
    teacher = make_teacher(args.teacher)
    for name in args.names:
        precond_spec(name)  # a name that is none is bad input, not a preconditioning that fails
    results = Path(args.results)
    if args.equivalence:
        return _equivalence(args.names, teacher, results)
    if not args.names:
        return _check_all(teacher, results, args.coefficients)
    from harness.contract import check_precond

    made, unmade = _make(args.names, teacher, results)
    failed = bool(unmade)
    for name, precond in made.items():
        findings = check_precond(precond)
        failed |= not all(finding.ok for finding in findings)
        rows = [[name, f.check, "ok" if f.ok else "FAILED", f.detail] for f in findings]
        print(tabulate(rows, tablefmt="plain"))
        if args.coefficients:
            _coefficients(precond, findings)
    for name, why in unmade.items():
        print(f"{name}  made  FAILED  {why}")
    return EXIT_CELL_FAILED if failed else EXIT_DONE


def _check_all(teacher: Teacher, results: Path, coefficients: bool) -> int:
    """A row per registered preconditioning and a column per check; what is wrong is said below.

    A preconditioning that cannot be imported, made or calibrated fails by itself: the others are
    checked.
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
    print(f"\n{len(rows)} preconditionings on teacher {teacher.name}, {len(wrong)} failures")
    for what, why in wrong:
        print(f"{what}: {why}")
    if coefficients:
        for name, precond in made.items():
            print(f"\n{name}")
            _coefficients(precond, check_precond(precond))
    return EXIT_CELL_FAILED if wrong else EXIT_DONE


def _make_all(teacher: Teacher, results: Path) -> tuple[dict[str, Preconditioning], dict[str, str]]:
    """Every registered preconditioning by default parameters; why others could not be made."""
    from harness.api import list_preconds
    from harness.registry import registry

    made, unmade = _make(list_preconds(), teacher, results)
    for broken in registry.broken:
        if broken.kind == "precond" and broken.origin.removeprefix("entry point ") not in unmade:
            unmade[broken.origin] = broken.error
    return made, unmade


def _make(
    names: Sequence[str], teacher: Teacher, results: Path
) -> tuple[dict[str, Preconditioning], dict[str, str]]:
    """Preconditionings by what they were asked for as; and why others could not be made."""
    made, unmade = {}, {}
    for name in names:
        try:
            made[name] = make_precond(name, teacher, results)
        except HarnessError as error:
            unmade[name] = str(error)
    return made, unmade


def _equivalence(names: list[str], teacher: Teacher, results: Path) -> int:
    """A line per function; exit code 1 if a preconditioning has no coefficients to compare."""
    from harness.contract import refuse_broken
    from harness.report.coefficients import same_function
    from harness.train.coefficients import fingerprint

    made, lacking = _make(names, teacher, results) if names else _make_all(teacher, results)
    groups: list[tuple[dict, list[str]]] = []
    for name, precond in made.items():
        try:
            refuse_broken(precond)
            with blaming("precond", type(precond)):
                mine = fingerprint(precond)
        except HarnessError as error:
            lacking[name] = str(error)
            continue
        for known, members in groups:
            if same_function(mine, known):
                members.append(name)
                break
        else:
            groups.append((mine, [name]))
    for _, members in groups:
        print(" = ".join(members) + ("   (one function: expect equal runs)" if members[1:] else ""))
    for name, why in lacking.items():
        print(f"not compared: {name}: {why}")
    return EXIT_CELL_FAILED if lacking else EXIT_DONE


def _coefficients(precond: Preconditioning, findings: Sequence[Finding]) -> None:
    """skip, out and shift at the jumps of a few-step sampler, unless there are none to print."""
    from harness.core.schedule import karras

    if findings[0].check == "coeffs":
        return
    rows = []
    for nfe in (1, 2, 3, 5):
        nodes = karras(nfe + 1, precond.sigma_min, precond.sigma_max)
        found = precond.coeffs(nodes[:-1], nodes[1:])
        if (basis := precond.basis) is not None:  # means over coordinates
            found = basis.mean(found)
        skip, out, shift = found
        for k in range(nfe):
            row = [nfe, *(f"{float(v):.6g}" for v in (nodes[k], nodes[k + 1], skip[k], out[k]))]
            rows.append([*row, "-" if shift is None else f"{float(shift[k]):.6g}"])
    print(tabulate(rows, headers=["NFE", "t", "s", "skip", "out", "shift"], disable_numparse=True))
    if precond.basis is not None:
        print(f"means over the coordinates of {precond.basis.count} bands")
