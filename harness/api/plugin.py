"""What all plugins share: a name, a revision, validated parameters."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Params(BaseModel):
    """Parameters of a plugin, validated from grid.yaml: unknown keys are errors, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def located(**field: Any) -> Any:
    """A parameter that says where a file is: its content counts, its place does not."""
    return Field(**field, json_schema_extra={"located": True})


class Plugin:
    """What all plugins share: a name, a revision, validated parameters.

    Raise `revision` when a change alters results: it is part of every run's identity, so that old
    and new numbers are never mixed.
    """

    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def lacks(self, method: str) -> NotImplementedError:
        """The error of a method that a subclass has to write, by its signature."""
        return NotImplementedError(f"{type(self).__name__} must define `{method}`")


def content_digest(content: Any, *, length: int = 16) -> str:
    """Hash of plain data through canonical JSON: the identity of parameters and specs."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
