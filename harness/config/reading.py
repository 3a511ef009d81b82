"""Read a YAML file into a pydantic model, with errors that name file, key and nearest key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError, complaint

M = TypeVar("M", bound=BaseModel)


#: numbers that YAML 1.1 reads in base 8 or 60, and text that looks like the former
OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9_.]+)+)")


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses duplicate keys and ambiguous numbers.

    YAML would keep the last of duplicate keys, and read 010 as 8 and 1:30 as 90.
    """

    def construct_scalar(self, node: Any) -> Any:
        """See yaml.SafeLoader."""
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if plain and OTHER_BASE.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value}: YAML reads such numbers in base 8 or 60; write it in base 10"
                " without a leading zero, or in quotes if it is text",
                node.start_mark,
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """See yaml.SafeLoader."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """What YAML says, as plain data.

    Raises:
        yaml.YAMLError: it is none, or something in it would be misread.
    """
    return yaml.load(text, Loader)


def read_mapping(path: Path, expected: str) -> dict[str, Any]:
    """What a YAML file says; `expected` is told where that is no mapping.

    Raises:
        ConfigError: missing or malformed file, or one that holds no mapping.
    """
    try:
        data = parse(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the YAML file in it") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8 ({error.reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {expected}")
    return data


def validate(model: type[M], data: Any, source: Callable[[Sequence[str]], str]) -> M:
    """Make a model from what was read; `source` tells where the value at a path of keys is from.

    Raises:
        ConfigError: all that is wrong in one line, each complaint after the source it is about.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        told: dict[str, list[str]] = {}
        for item in error.errors():
            keys, known = _place(model, [str(part) for part in item["loc"]])
            message = complaint(item, known)
            told.setdefault(source(keys), []).append(
                f"{'.'.join(keys)}: {message}" if keys else message
            )
    raise ConfigError("; ".join(f"{where}: {'; '.join(parts)}" for where, parts in told.items()))


def _place(model: Any, loc: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys, as a user wrote them, that lead to `loc`; and the names that the last may have."""
    keys: list[str] = []
    within = sections = [model]
    for part in loc:
        tagged = [each for each in sections if len(sections) > 1 and _has_tag(each, part)]
        if tagged:  # pydantic's name for the one of several sections that is meant, no key
            sections = tagged
            continue
        keys.append(part)
        within = sections
        fields = [each.model_fields[part] for each in sections if part in each.model_fields]
        if fields:  # else an index of a list, or a key of a mapping, of such sections
            sections = [inner for field in fields for inner in _sections(field.annotation)]
    return keys, [name for each in within for name in each.model_fields]


def _sections(annotation: Any) -> list[Any]:
    """The models in an annotation, through lists, mappings and unions."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [inner for each in get_args(annotation) for inner in _sections(each)]


def _has_tag(section: Any, part: str) -> bool:
    return any(get_args(field.annotation) == (part,) for field in section.model_fields.values())
