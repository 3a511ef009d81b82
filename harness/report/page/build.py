"""The page of a grid: template, style and script put together with what the page shows.

One file without any network: style, script, data and pictures are inside it, and its own security
policy forbids every request. Labels are whatever people called things, so the template escapes
them all; only the figures' own SVG is put in as markup, and matplotlib escapes the text in it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.report.page.pictures import pictures
from harness.report.page.view import view
from harness.report.plots.draw import looks_of
from harness.report.write import Report
from harness.store.files import write_atomic

HERE = files("harness.report.page")
SCRIPTS = ("charts.js", "levels.js", "page.js")


def write_page(report: Report, path: Path) -> Path:
    """Write the page; links to provenance are relative to where it lies. Returns its path."""
    write_atomic(path, render_page(report, path.parent))
    return path


def render_page(report: Report, folder: Path) -> str:
    """The page as text, for a file in `folder`; imports no torch."""
    looks = looks_of(report)
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html").render(
        style=Markup(_read("page.css")),
        script=Markup("".join(map(_read, SCRIPTS))),
        pictures=pictures(report, looks),
        **view(report, looks, folder),
    )


def _breakable(label: str) -> Markup:
    """A label that may be broken after a parenthesis, comma or equals sign, escaped."""
    label = label.replace("(= ", "(=\N{NO-BREAK SPACE}")
    return Markup("<wbr>").join(re.split(r"(?<=[(,=])(?=\w)", label))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
