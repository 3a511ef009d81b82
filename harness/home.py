"""Whose files these are is nobody's business: `~` for the home folder in all that is written down.

Results are published. Paths in them begin with `~` where they would name the home folder, and are
expanded when something is opened.
"""

from __future__ import annotations

import os
import re
from typing import Any


def without_home(data: Any) -> Any:
    """Plain data whose paths in the home folder begin with `~`."""
    for home in _homes():
        data = _mapped(data, lambda text, home=home: _shortened(text, home))
    return data


def with_home(data: Any) -> Any:
    """Inverse of `without_home`, for whoever opens files; also of what a user wrote with a `~`."""
    return _mapped(data, lambda text: os.path.expanduser(text) if _is_short(text) else text)


def told_without_home(sentence: str) -> str:
    """A sentence, with `~` for the home folder wherever it names a file in it."""
    for home in _homes():
        sentence = re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", sentence)
    return sentence


def _homes() -> list[str]:
    """The home folder as it is called, and as it is; none where that would say nothing."""
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
