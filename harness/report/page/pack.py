"""Contents of the page in blocks: plain HTML, or packed until the page opens them.

A small page is plain as a whole. In a large one the first problem is plain; other problems and the
lists of all runs are packed, so that a browser neither reads nor lays out what nobody looks at.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.environment import TemplateModule

from harness.report.page.charts import Chart

#: a page whose blocks have at most so many characters is plain as a whole
PLAIN = 1_500_000


@dataclass(frozen=True)
class Block:
    """What the page shows together: HTML by part of the page, and charts by kind."""

    name: str
    parts: dict[str, str]
    charts: dict[str, list[Chart]]

    @cached_property
    def text(self) -> str:
        """The block as JSON."""
        held = {"parts": self.parts, "charts": self.charts}
        return json.dumps(held, separators=(",", ":"), ensure_ascii=False)

    def packed(self) -> str:
        """The block as pack.js reads it: JSON, compressed by gzip, in base64."""
        return base64.b64encode(gzip.compress(self.text.encode(), mtime=0)).decode()


def blocks(shown: dict[str, Any], parts: TemplateModule) -> Iterator[Block]:
    """Blocks of all problems in the order of the menu, then coverage and runs.

    `shown` is the result of `view`; `parts` has the macros of parts.html.
    """
    macros: Any = parts
    for number in range(len(shown["problems"])):
        held = {
            name: macros.tables(_of(number, shown[name]))
            for name in ("boards", "speeds", "leads", "areas")
        }
        held["figures"] = macros.drawings(_of(number, shown["figures"]))
        held["sheets"] = macros.samples(_of(number, shown["sheets"]))
        charts = {
            kind: [chart for chart in every if chart["problem"] == number]
            for kind, every in shown["charts"].items()
        }
        yield Block(f"problem-{number}", held, charts)
    yield Block("coverage", {"coverage": macros.covered(shown["coverage"])}, {})
    yield Block("runs", {"runs": macros.listed(shown["runs"])}, {})


def divided(found: list[Block]) -> tuple[list[Block], list[Block]]:
    """Blocks that are plain, and those that are packed."""
    small = sum(len(block.text) for block in found) <= PLAIN
    return (found, []) if small else (found[:1], found[1:])


def _of(problem: int, every: list[Any]) -> list[Any]:
    """Tables or pictures of one problem."""
    return [each for each in every if each.problem == problem]
