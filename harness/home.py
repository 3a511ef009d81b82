"""Replace the home folder by `~` in everything that is written, so that no user name is published.

Results are published. Paths in them begin with `~` where they would name the home folder, and are
expanded when something is opened.
"""

from __future__ import annotations

import os
import re
from typing import Any


def without_home(data: Any) -> Any:
    """Copy of plain data in which strings that are paths in the home folder begin with `~`."""
    for home in _homes():
        data = _mapped(data, lambda text, home=home: _shortened(text, home))
    return data


def with_home(data: Any) -> Any:
    """Inverse of `without_home`: expand `~` at the beginning of every string."""
    return _mapped(data, lambda text: os.path.expanduser(text) if _is_short(text) else text)


def told_without_home(sentence: str) -> str:
    """A sentence with the home folder replaced by `~` wherever a path in it occurs."""
    for home in _homes():
        sentence = re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", sentence)
    return sentence


def _homes() -> list[str]:
    """The home folder and its resolved path; without relative paths and the root folder."""
    home = os.path.expanduser("~")
    names = dict.fromkeys([home, os.path.realpath(home)])
    return [name for name in names if os.path.isabs(name) and name != os.sep]


def _shortened(text: str, home: str) -> str:
    return "~" + text[len(home) :] if text == home or text.startswith(home + os.sep) else text


def _is_short(text: str) -> bool:
    return text == "~" or text.startswith("~" + os.sep)


def _mapped(data: Any, change: Any) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {key: _mapped(value, change) for key, value in data.items()}
    return [_mapped(value, change) for value in data] if isinstance(data, list | tuple) else data
