"""Figures for the page: SVG in the colours of the page, sheets of samples as PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from PIL import Image

from harness.report.plots.draw import explained
from harness.report.plots.style import COLOURS, RC, Plot, PlotStyle
from harness.report.sources import problems, samples, twins
from harness.report.write import Report

#: samples of a sheet that the page shows: so many pixels of its top, at most
TALLEST = 280
#: coordinates are in points: the third decimal is nobody's
_DECIMALS = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Figure:
    """An SVG figure: index of its problem, title, description, width in CSS pixels."""

    problem: int
    title: str
    caption: str
    svg: Markup
    width: int


@dataclass(frozen=True)
class Sheets:
    """Sample sheets of one problem: `rows` are data URIs by preconditioning and NFE."""

    problem: int
    caption: str
    nfe: list[int]
    rows: dict[str, dict[int, str]]


def pictures(report: Report, looks: dict[str, PlotStyle]) -> dict[str, list[Any]]:
    """`figures` and `sheets` of a grid, in the order of its problems."""
    return {
        "figures": list(_figures(report, looks)),
        "sheets": list(_sheets(report, looks)),
    }


def _figures(report: Report, looks: dict[str, PlotStyle]) -> Iterator[Figure]:
    for problem, plot in explained(report, looks, sheets=False):
        yield Figure(
            problem, plot.title, plot.alt, inline(plot), int(96 * plot.figure.get_figwidth())
        )


def _sheets(report: Report, looks: dict[str, PlotStyle]) -> Iterator[Sheets]:
    alike = twins(report)
    for number, (_, cells) in enumerate(problems(report)):
        which, found = samples(cells[~cells["precond"].isin(alike)], "png")
        rows: dict[str, dict[int, str]] = {}
        for precond, look in looks.items():
            mine = {nfe: path for (name, nfe), path in found.items() if name == precond}
            if mine:
                rows[look.title.replace("\n", " ")] = {
                    nfe: _png(Image.open(path)) for nfe, path in mine.items()
                }
        if rows:
            yield Sheets(number, which, sorted({nfe for _, nfe in found}), rows)


def _png(image: Image.Image) -> str:
    """The top rows of a sheet (8 samples wide) as a data URI."""
    row = (image.width - 2) // 8
    image = image.crop((0, 0, image.width, min(image.height, max(1, TALLEST // row) * row + 2)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def inline(plot: Plot) -> Markup:
    """A figure as inline SVG, with text as text, colours of the page, unique ids and no title."""
    buffer = io.StringIO()
    own = {"svg.fonttype": "none", "svg.hashsalt": plot.name, "savefig.transparent": True}
    with matplotlib.rc_context(RC | own):
        plot.figure.savefig(buffer, format="svg", dpi=100, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: _DECIMALS.sub(r"\1", m[0]), svg)
    greys = dict.fromkeys(("#606060", "#808080", "#a0a0a0"), "var(--soft)")
    for colour, name in ({c: f"var(--c{k})" for k, c in enumerate(COLOURS)} | greys).items():
        svg = svg.replace(colour, name)
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))
