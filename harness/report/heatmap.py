"""Heat maps of a quantity over (t, s), one panel per strategy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np


def draw(panels: dict[str, dict[tuple[float, float], float]], title: str, path: Path) -> None:
    """Write a PNG: s across, t down, one log colour scale, clipped at the outer tenths."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    levels = sorted({level for values in panels.values() for pair in values for level in pair})
    tables = {}
    for name, values in panels.items():
        table = np.full((len(levels), len(levels)), np.nan)
        for (t, s), value in values.items():
            table[levels.index(t), levels.index(s)] = max(value, 1e-12)
        tables[name] = table
    filled = np.concatenate([table[np.isfinite(table)] for table in tables.values()])
    # one bad strategy must not flatten the differences between the others: extremes are clipped
    low, high = np.quantile(filled, [0.1, 0.9])
    norm = LogNorm(max(float(low), 1e-6), max(float(high), 2e-6), clip=True)
    columns = math.ceil(math.sqrt(len(tables)))
    lines = -(-len(tables) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 3.4 * lines), squeeze=False, layout="constrained"
    )
    ticks = range(0, len(levels), max(1, len(levels) // 5))
    for axis in axes.flat[len(tables) :]:
        axis.set_visible(False)
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        image = axis.imshow(table, origin="lower", norm=norm, cmap="viridis")
        axis.set_title(name, fontsize=10)
        axis.set_xticks(ticks, [f"{levels[i]:.2g}" for i in ticks], fontsize=8)
        axis.set_yticks(ticks, [f"{levels[i]:.2g}" for i in ticks], fontsize=8)
        axis.set_xlabel("jump ends at s")
        axis.set_ylabel("jump starts at t")
    figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
