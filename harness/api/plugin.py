"""`Plugin` and `Params`, the base classes of all plugins and of their parameters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


class Settings(BaseModel):
    """Base of everything that is read from YAML: unknown keys are errors, values are frozen.

    Numbers must be finite unless a field has `Field(allow_inf_nan=True)`. Booleans are refused
    where a number is expected: YAML reads `no` and `on` as booleans, which Python takes as 0 and 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if kinds & {int, float} and not kinds & {bool, Any}:
            for found in _flat(value):
                if isinstance(found, bool):
                    raise ValueError(
                        f"must be a number, got {str(found).lower()} (YAML reads yes, no, on and"
                        " off as true and false)"
                    )
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation, through lists, mappings, unions and literals."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    inner = get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated: what follows the type is no type
        inner = inner[:1]
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


def _flat(value: Any) -> list[Any]:
    """The leaves of nested lists and mappings, as one list."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [found for item in value for found in _flat(item)]
    return [value]


class Params(Settings):
    """Parameters of a plugin, validated from grid.yaml by the rules of `Settings`."""


def located(**field: Any) -> Any:
    """Field for the path of a file: the run's identity depends on its content, not on its path."""
    return Field(**field, json_schema_extra={"located": True})


class PluginRef(Params):
    """A plugin named within parameters: NAME, {NAME: {key: value}} or {name: NAME, params: {}}."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        value = spelled_out(value)
        if not isinstance(value, str | dict | PluginRef):
            raise ValueError(f"{value!r}: write NAME or {{NAME: {{key: value}}}}")
        return {"name": value} if isinstance(value, str) else value


def spelled_out(value: Any) -> Any:
    """Expand `{NAME: {key: value}}` to {name, params}; any other value is returned unchanged."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, params),) = value.items()
        if name not in PluginRef.model_fields and isinstance(params, dict):
            return {"name": name, "params": params}
    return value


class Plugin:
    """Base class of all plugins: a name, a revision, validated parameters.

    Raise `revision` when a change alters results: it is part of every run's identity, so that old
    and new numbers are never mixed.
    """

    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def lacks(self, method: str) -> NotImplementedError:
        """NotImplementedError for a method that a subclass must define, given by its signature."""
        return NotImplementedError(f"{type(self).__name__} must define `{method}`")
