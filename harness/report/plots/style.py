"""Common style of figures: a preconditioning has one colour, marker and dash in all of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

#: Okabe and Ito's colours for the colour-blind, without the yellow that vanishes on paper; markers
#: and dashes tell lines apart in greyscale. Seven colours and eight markers meet again after 56.
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vPX*"
DASHES = ((), (5, 2), (1.5, 1.5), (5, 1.5, 1.5, 1.5))

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#b0b0b0",
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "precondbench",  # the same data give the same bytes
}


@dataclass(frozen=True)
class PlotStyle:
    """How one preconditioning is drawn; `filled` is false for one that equals an earlier one.

    `legend` is its label in a legend; `title` is that of a panel of its own, with the names of
    preconditionings that equal it.
    """

    colour: str
    marker: str
    dash: tuple[float, ...]
    filled: bool
    legend: str
    title: str

    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": (0, self.dash) if self.dash else "-",
            **({} if self.filled else {"markerfacecolor": "none", "markersize": 8}),
        }


def plot_styles(names: Iterable[str], baseline: str, twins: dict[str, str]) -> dict[str, PlotStyle]:
    """A style for every preconditioning in the grid's order, the baseline first and in black.

    A preconditioning with the coefficients of an earlier one (`twins`: it -> the earlier one) has
    the same colour, a dotted line, and rings around the other's markers, so that both are visible.
    """
    order = sorted(dict.fromkeys(names), key=lambda name: name != baseline)
    found = {}
    for k, name in enumerate(name for name in order if name not in twins):
        equal = [name, *(twin for twin in order if twins.get(twin) == name)]
        found[name] = PlotStyle(
            COLOURS[k % len(COLOURS)],
            MARKERS[k % len(MARKERS)],
            DASHES[k % len(DASHES)],
            True,
            name,
            folded(" = ".join(equal)),
        )
    for name in order:
        if name in twins:
            colour, legend = found[twins[name]].colour, f"{name} (= {twins[name]})"
            found[name] = PlotStyle(colour, "o", (1, 1), False, legend, folded(legend))
    return {name: found[name] for name in order}


def folded(title: str, width: int = 24) -> str:
    """Break the title of a narrow panel before a parenthesis or after a comma."""
    text = title.replace("(", " (").replace("  ", " ")
    return "\n".join(textwrap.wrap(text, width, break_long_words=False)).replace(" (", "(")


@dataclass(frozen=True)
class Plot:
    """A figure with its file name, title, and a description of what it shows."""

    name: str
    title: str
    alt: str
    figure: Figure

    def save(self, folder: Path) -> list[Path]:
        """Write `name`.svg and `name`.png (200 dpi, white background), titled; return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.{extension}" for extension in ("svg", "png")]
        with matplotlib.rc_context(RC):
            self.figure.suptitle(plain(self.title), fontsize=10)
            for path in paths:
                words = {"Date": None, "Title": self.title, "Description": self.alt}
                metadata = words if path.suffix == ".svg" else None
                self.figure.savefig(path, dpi=200, metadata=metadata)
        return paths


def plain(text: str) -> str:
    """Escape dollar signs in labels, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")


def panels(
    count: int, width: float, height: float, columns: int = 3, **shared: Any
) -> tuple[Figure, list[Any]]:
    """A figure of `count` equal panels, at most `columns` a row; sizes of a panel in inches."""
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def legend_below(figure: Figure, axes: Iterable[Any], styles: Mapping[str, PlotStyle]) -> None:
    """One legend for all panels, in the order of the styles, in as many columns as fit.

    Further lines of the legend make the figure taller, not the panels smaller.
    """
    known = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for style in styles.values() if (label := plain(style.legend)) in known]
    if not order:
        return
    room = int(15 * figure.get_figwidth() / (8 + max(map(len, order))))
    columns = max(1, min(4, room, len(order)))
    lines = math.ceil(len(order) / columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * (lines - 1))
    handles = [known[label] for label in order]
    figure.legend(handles, order, loc="outside lower center", ncols=columns)


def log_ticks(axes: Any, axis: Any) -> None:
    """A log scale with plain numbers at 1, 2, 5 if the range is small, else at powers of ten.

    `axis` is the x or y axis of `axes`, whose data must be drawn already.
    """
    low, high = axis.get_data_interval()
    (axes.set_yscale if axis is axes.yaxis else axes.set_xscale)("log")
    decades = math.log10(high / low) if 0 < low < high else 0.0
    subs = (1,) if decades > 2 else (1, 2, 5) if decades > 0.7 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(plain_numbers())


def plain_numbers() -> FuncFormatter:
    """A tick formatter without mathematical typesetting (0.01, 5, 1e6), which would be slow."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e").replace("e-0", "e-"))


def times(value: float) -> str:
    """Format a ratio for an axis: `2×`, and `1/2×` below one."""
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:.3g}×"
