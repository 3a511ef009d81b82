"""Heat maps of a quantity over (t, s), one tile per preconditioning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from harness.report.plots.style import Plot, folded, log_ticks, panels, plain

Pairs = Mapping[tuple[float, float], float]

GAP = 2  # empty columns between tiles
COLUMNS = 4


def heat_maps(maps: Mapping[str, Pairs], title: str, name: str) -> Plot:
    """Heat maps with s on the x axis, t on the y axis, and one log colour scale for all tiles.

    The scale is clipped at the outer tenths of all values.
    """
    positive = {
        label: {pair: max(value, 1e-12) for pair, value in pairs.items()}
        for label, pairs in maps.items()
    }
    values = [value for pairs in positive.values() for value in pairs.values()]
    # one bad preconditioning must not flatten the differences between the others: extremes are
    # clipped
    low, high = np.quantile(values, [0.1, 0.9])
    norm = LogNorm(max(float(low), 1e-6), max(float(high), 2e-6), clip=True)
    rows = math.ceil(len(maps) / COLUMNS)
    columns = math.ceil(len(maps) / rows)
    figure, axes = panels(rows, 1.7 * columns + 0.7, 1.75 + 0.7 / rows, columns=1)
    labels = list(positive)
    for row, axis in enumerate(axes):
        mine = {label: positive[label] for label in labels[row * columns : (row + 1) * columns]}
        image = tiles(axis, mine, norm, columns)
        axis.set_ylabel("from t")
    axis.set_xlabel("to s")
    bar = figure.colorbar(image, ax=axes, extend="both", pad=0.02)
    log_ticks(bar.ax, bar.ax.yaxis)
    alt = f"One tile per preconditioning, over jumps from t to s: {', '.join(labels)}."
    return Plot(name, title, alt, figure)


def tiles(
    axis: Any, maps: Mapping[str, Pairs], norm: Normalize, columns: int, ends: bool = True
) -> Any:
    """Draw maps side by side into one axis, with titles; return the image, for a colour bar.

    They are one image, since separate axes take a second to lay out. The colour map is cividis,
    whose lightness increases uniformly, also for colour-blind readers and in grey. `ends`: whether
    to write the levels of s.
    """
    levels = sorted({level for pairs in maps.values() for pair in pairs for level in pair})
    place = {level: k for k, level in enumerate(levels)}
    size, step = len(levels), len(levels) + GAP
    sheet = np.full((size, columns * step - GAP), np.nan)
    ticks = range(0, size, math.ceil(size / 4))
    for k, (label, pairs) in enumerate(maps.items()):
        for (t, s), value in pairs.items():
            sheet[place[t], k * step + place[s]] = value
        title = plain(folded(label, 18))
        axis.text(k * step + size / 2 - 0.5, size, title, ha="center", va="bottom")
        axis.plot([k * step - 0.5] * 2, [-0.5, size - 0.5], color="#000000", lw=0.8)
    image = axis.imshow(sheet, origin="lower", norm=norm, cmap="cividis", interpolation="none")
    names = [f"{levels[i]:.2g}" for i in ticks]
    axis.set_yticks(ticks, names)
    across = [k * step + i for k in range(len(maps)) for i in ticks]
    axis.set_xticks(across, names * len(maps) if ends else [""] * len(across), rotation=45)
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    return image
