"""The HTML page of a grid, assembled from template, style, script and data.

It is one file: style, script, data and pictures are embedded, and its content security policy
forbids all requests. The template escapes all labels; only the SVG of figures is inserted as
markup, and matplotlib escapes the text in it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.report.page.charts import Chart
from harness.report.page.pack import Block, blocks, divided
from harness.report.page.view import view
from harness.report.plots.draw import styles_of
from harness.report.write import Report
from harness.store.files import write_atomic

HERE = files("harness.report.page")
SCRIPTS = ("charts.js", "levels.js", "pack.js", "page.js")


def write_page(report: Report, path: Path) -> Path:
    """Write the page and return its path; links to run files are relative to its folder."""
    write_atomic(path, render_page(report, path.parent))
    return path


def render_page(report: Report, folder: Path) -> str:
    """The page as text, for a file in `folder`; imports no torch."""
    looks = styles_of(report)
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    shown = view(report, looks, folder)
    parts = environment.get_template("parts.html").make_module(shown)
    plain, packed = divided(list(blocks(shown, parts)))
    return environment.get_template("page.html").render(
        style=Markup(_read("page.css")),
        script=Markup("".join(map(_read, SCRIPTS))),
        plain=_by_part(plain),
        data=_chart_data(shown["drawn"], plain),
        packed={block.name: Markup(block.packed()) for block in packed},
        **shown,
    )


def _by_part(plain: list[Block]) -> dict[str, Markup]:
    """HTML of plain blocks by the part of the page that it belongs to."""
    found: dict[str, Markup] = {}
    for block in plain:
        for name, html in block.parts.items():
            found[name] = found.get(name, Markup()) + Markup(html)
    return found


def _chart_data(looks: list[Chart], plain: list[Block]) -> dict[str, list[Chart]]:
    """Looks, and charts of plain blocks by kind."""
    found: dict[str, list[Chart]] = {"looks": looks}
    for block in plain:
        for kind, charts in block.charts.items():
            found.setdefault(kind, []).extend(charts)
    return found


def _breakable(label: str) -> Markup:
    """An escaped label with line breaks allowed after parentheses, commas and equals signs."""
    label = label.replace("(= ", "(=\N{NO-BREAK SPACE}")
    return Markup("<wbr>").join(re.split(r"(?<=[(,=])(?=\w)", label))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
