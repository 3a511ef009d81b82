"""`--teacher NAME` and preconditionings by name, for the verbs that work without a grid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harness.config.schema import PluginRef
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.api import Preconditioning, Teacher
    from harness.store.records import PluginSpec


def add_teacher_argument(parser: argparse.ArgumentParser) -> None:
    """--teacher and --results."""
    parser.add_argument(
        "--teacher",
        default="gmm",
        metavar="NAME",
        help="a teacher, with parameters if need be: gmm, 'gmm: {modes: 4}' (default: gmm)",
    )
    parser.add_argument(
        "--results", default="results", metavar="DIR", help="where artifacts are kept"
    )


def parse_plugin(text: str) -> tuple[str, dict]:
    """`name` or `name: {key: value}` into a name and parameters.

    Raises:
        ConfigError: the text is neither.
    """
    try:
        ref = PluginRef.model_validate(text)
    except ValidationError:
        raise ConfigError(f"{text!r}: write NAME or 'NAME: {{key: value}}'") from None
    return ref.name, ref.params


def make_teacher(text: str) -> Teacher:
    """The teacher that --teacher names."""
    from harness.api import create_teacher

    name, params = parse_plugin(text)
    return create_teacher(name, **params)


def precond_spec(text: str) -> PluginSpec:
    """A preconditioning by `NAME` or `NAME: {params}`, its parameters checked.

    Raises:
        ConfigError: there is no preconditioning, or no parameter, of that name.
    """
    from harness.api import make_params
    from harness.registry import registry
    from harness.store.records import PluginSpec

    name, given = parse_plugin(text)
    params = make_params("precond", name, given).model_dump(mode="json")
    return PluginSpec(name, registry.get("precond", name).revision, params, given)


def make_precond(text: str, teacher: Teacher, results: Path) -> Preconditioning:
    """The preconditioning of that name, calibrated if it needs it.

    Raises:
        ConfigError: there is none, or its own code raises.
    """
    import torch

    from harness.registry import blaming, registry
    from harness.train.cell import calibrated

    spec = precond_spec(text)
    with blaming("precond", registry.get("precond", spec.name), "calibrate"):
        return calibrated(spec, teacher, teacher.dataset(), results, torch.device("cpu"))[0]
