"""`calibrate`: measure a teacher for a preconditioning, once; later runs find the artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.cli.teacher_argument import add_teacher_argument, make_teacher, precond_spec
from harness.errors import EXIT_DONE, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `calibrate`."""
    parser.add_argument(
        "precond", metavar="PRECOND", help="e.g. analytic or 'analytic: {statistics: jvp}'"
    )
    parser.add_argument(
        "--curve", action="store_true", help="print what was measured at every level"
    )
    add_teacher_argument(parser)
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print what was measured, at what cost, and where it is kept."""
    import torch

    from harness.registry import blaming, registry
    from harness.store.store import ResultStore
    from harness.train.cell import calibrated

    spec = precond_spec(args.precond)
    teacher = make_teacher(args.teacher)
    results = ResultStore(args.results).prepare().root
    device = torch.device("cpu")
    with blaming("precond", registry.get("precond", spec.name), "calibrate"):
        _, artifact = calibrated(spec, teacher, teacher.dataset(), Path(results), device)
    if artifact is None:
        raise ConfigError(
            f"precond {spec.name!r} has closed-form coefficients: nothing to calibrate"
        )
    arrays = artifact.arrays
    print(f"artifact        {artifact.path}")
    print(f"seconds         {artifact.seconds:.2f} when it was made")
    for key in ("evaluations", "standard_error", "clipped", "flat", "bounded"):
        if key in arrays:
            print(f"{key.replace('_', ' '):<15} {_describe(key, arrays[key])}")
        if f"{key}_centred" in arrays:
            print(f"{'  centred':<15} {_describe(key, arrays[f'{key}_centred'])}")
    if args.curve and "sigma" in arrays:
        levels = arrays["sigma"].shape
        curves = {"sigma": arrays["sigma"]} | {
            name: array for name, array in sorted(arrays.items()) if array.shape == levels
        }
        print(tabulate(zip(*curves.values(), strict=True), headers=[*curves], floatfmt=".6g"))
    return EXIT_DONE


def _describe(key: str, value: object) -> str:
    import numpy as np

    array = np.atleast_1d(np.asarray(value))
    if key == "evaluations":
        return f"{int(array[0]):,} of the teacher, one sample each"
    if key == "standard_error":
        return f"{array[0]:.2g} of the data's deviation at s, in the jump that is known least"
    if key == "bounded":
        return f"slope of log S cut at {int(array[0])} levels"
    if key == "flat":
        return f"g vanishes at {int(array.sum())} levels (S is continued there)"
    return f"l moved into [0, 1] at {int(array[1])} levels, by {array[0]:.1e} at most"
