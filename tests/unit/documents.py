"""The documentation as tests see it: its pages, the files and the commands that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_TITLED = re.compile(r'```\w+ title="([^"]+)"\n(.*?)```', re.S)
_PYTHON = re.compile(r"```python\n(.*?)```", re.S)
_CONSOLE = re.compile(r"```console\n(.*?)```", re.S)


def titled_blocks(page: str) -> dict[str, str]:
    """Files that a page shows, by name."""
    return dict(_TITLED.findall((DOCS / page).read_text()))


def code_blocks(page: str) -> list[str]:
    """The Python of a page that is in no file, block by block."""
    return _PYTHON.findall((DOCS / page).read_text())


def commands() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every `python -m harness` in a console block."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        for block in _CONSOLE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:3] == ["python", "-m", "harness"]:
                    found.append((page.name, words[3:]))
    return found
