"""Read a grid from a file or a dict, with environment variables and overrides."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.config.needs import missing_weights, told_at_once
from harness.config.reading import parse, read_mapping, validate
from harness.config.schema import Grid, NeededFile, human_size
from harness.errors import ConfigError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Override:
    """A value that replaces that of a grid at `key.path`; `told` is the user's text for errors."""

    key: str
    value: Any
    told: str

    @classmethod
    def read(cls, text: str) -> Override:
        """Parse the argument of `--set KEY=VALUE`, with the value as YAML.

        Raises:
            ConfigError: it is not of that form.
        """
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text}: write key.path=value, e.g. --set train.lr=1e-4")
        try:
            return cls(key, parse(value), f"--set {text}")
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "it ends too early"
            raise ConfigError(f"--set {text}: the value is not valid YAML: {problem}") from None


def load_grid(path: str | Path, overrides: Iterable[str | Override] = ()) -> Grid:
    """Read, override and validate a grid.

    Args:
        path: a YAML file.
        overrides: `key.path=value` strings, the value read as YAML, or what they say.

    Raises:
        ConfigError: missing or malformed file, unknown key, wrong type, unset variable.
    """
    path = Path(path)
    data = read_mapping(path, "a grid is a mapping with version, name, axes, budgets")
    return make_grid(data, overrides, path)


def make_grid(data: dict[str, Any], overrides: Iterable[str | Override], path: str | Path) -> Grid:
    """Override and validate what a grid file holds; errors name it by `path`.

    Raises:
        ConfigError: see `load_grid`.
    """
    data = copy.deepcopy(data)
    changes = [Override.read(each) if isinstance(each, str) else each for each in overrides]
    for change in changes:
        _apply(change, data)
    unset: dict[str, str] = {}
    data = _expand(data, "", unset)
    if unset:
        raise _unset_variables(path, unset, data)

    def source(keys: Sequence[str]) -> str:
        return next((each.told for each in reversed(changes) if _about(each, keys)), str(path))

    return validate(Grid, data, source)


def _apply(change: Override, data: dict[str, Any]) -> None:
    *parents, last = change.key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{change.told}: {parent!r} is not a section")
    data[last] = change.value


def _expand(value: Any, where: str, unset: dict[str, str]) -> Any:
    """Replace ${NAME} and ${NAME:-default} in every string; note names that are not set."""
    if isinstance(value, dict):
        return {
            key: _expand(item, f"{where}.{key}" if where else f"{key}", unset)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{where}[{i}]", unset) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            unset.setdefault(name, where)
        return found or ""

    return VARIABLE.sub(lookup, value)


def _unset_variables(path: str | Path, unset: dict[str, str], data: dict[str, Any]) -> ConfigError:
    """What the grid's `needs` say of each variable; weights that lack too, so all is told once."""
    told = _needs(data)
    evaluate = data["evaluate"] if isinstance(data.get("evaluate"), dict) else {}
    extractors = evaluate.get("extractors", [])
    lines = [
        f"environment variable {name} is not set ({where})"
        + (f": {told[name].told()}" if name in told else "")
        for name, where in unset.items()
    ]
    if isinstance(extractors, list):
        lines += missing_weights(str(name) for name in extractors)
    error = told_at_once(lines, str(path))
    return (
        error
        if len(lines) == 1
        else ConfigError(f"{error}\nWith them: {_extent(data, told, unset)}")
    )


def _needs(data: dict[str, Any]) -> dict[str, NeededFile]:
    """What a grid that is not validated yet says of its files, as far as it can be read."""
    needs = data["needs"] if isinstance(data.get("needs"), dict) else {}
    found = {}
    for name, value in needs.items():
        try:
            found[str(name)] = NeededFile.model_validate(
                {"file": value} if isinstance(value, str) else value
            )
        except ValueError:
            continue  # told where the grid is validated
    return found


def _extent(data: dict[str, Any], needs: Mapping[str, NeededFile], unset: Mapping[str, str]) -> str:
    """How much a grid asks for, counted before it can be validated.

    Disk: weights at every budget, and two checkpoints with target, network, two moments and an
    average each, all as large as the file of the teacher.
    """
    axes = data["axes"] if isinstance(data.get("axes"), dict) else {}
    sizes = {axis: len(v) if isinstance(v, list) else 1 for axis, v in axes.items()}
    text = f"{math.prod(sizes.values())} cells or fewer"
    text += f" ({' x '.join(f'{size} {axis}' for axis, size in sizes.items())})"
    budgets, train = data.get("budgets"), data.get("train")
    if isinstance(budgets, list) and all(isinstance(step, int) for step in budgets) and budgets:
        batch = train.get("batch") if isinstance(train, dict) else None
        text += f", {max(budgets):,} steps each" + (f" of batch {batch}" if batch else "")
        weights = [
            needs[name].size or 0
            for name, where in unset.items()
            if where.startswith("axes.teacher") and name in needs
        ]
        if any(weights):
            disk = math.prod(sizes.values()) * max(weights) * (len(budgets) + 2 * 5)
            text += f"; up to {human_size(disk)} of disk for weights and checkpoints"
    here = sum(need.size or 0 for need in needs.values())
    return text + (f"; files of {human_size(here)} to get" if here else "")


def _about(change: Override, keys: Sequence[str]) -> bool:
    """Whether an override set what lies at `keys`, all of it or a part."""
    return bool(keys) and all(
        one == two for one, two in zip(change.key.split("."), keys, strict=False)
    )
