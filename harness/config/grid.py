"""Reading grid.yaml: environment variables, `--set` overrides, errors that name file and key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.config.needs import missing_weights, told_at_once
from harness.config.schema import Grid
from harness.errors import ConfigError, complaint

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key written twice instead of keeping the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """Read, override and validate a grid.

    Args:
        path: a YAML file.
        overrides: `key.path=value` strings, the value read as YAML.

    Raises:
        ConfigError: missing or malformed file, unknown key, wrong type, unset variable.
    """
    path = Path(path)
    try:
        data = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a grid is a mapping with version, name, axes, budgets")
    return make_grid(data, overrides, path)


def make_grid(data: dict[str, Any], overrides: Sequence[str], path: str | Path) -> Grid:
    """Override and validate what a grid file holds; errors name it by `path`.

    Raises:
        ConfigError: see `load_grid`.
    """
    for override in overrides:
        _override(data, override)
    unset: dict[str, str] = {}
    data = _expand(data, "", unset)
    if unset:
        raise _unset_variables(path, unset, data)
    try:
        return Grid.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(error, path, overrides)) from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write key.path=value, e.g. --set train.lr=1e-4")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {parent!r} is not a section")
    data[last] = value


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
    told = data["needs"] if isinstance(data.get("needs"), dict) else {}
    evaluate = data["evaluate"] if isinstance(data.get("evaluate"), dict) else {}
    extractors = evaluate.get("extractors", [])
    lines = [
        f"environment variable {name} is not set ({where})"
        + (f": {told[name]}" if name in told else "")
        for name, where in unset.items()
    ]
    if isinstance(extractors, list):
        lines += missing_weights(str(name) for name in extractors)
    return told_at_once(lines, str(path))


def _sentence(error: ValidationError, path: str | Path, overrides: Sequence[str]) -> str:
    """All complaints in one line, each after the file or the override that it is about."""
    told: dict[str, list[str]] = {}
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        key, message = ".".join(loc), complaint(item, _keys_at(loc[:-1]))
        where = next((f"--set {o}" for o in reversed(overrides) if _about(o, loc)), str(path))
        told.setdefault(where, []).append(f"{key}: {message}" if key else message)
    return "; ".join(f"{where}: {'; '.join(parts)}" for where, parts in told.items())


def _about(override: str, loc: Sequence[str]) -> bool:
    """Whether an override set what lies at `loc`, all of it or a part."""
    return bool(loc) and all(
        one == two for one, two in zip(override.partition("=")[0].split("."), loc, strict=False)
    )


def _keys_at(loc: Sequence[str]) -> list[str]:
    """Field names of the section that `loc` leads to, through lists."""
    model: Any = Grid
    for part in loc:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in inner if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)
