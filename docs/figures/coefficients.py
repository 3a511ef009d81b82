"""skip and out of three preconditionings over all jumps t -> s."""

from __future__ import annotations

import ring
import torch
from matplotlib import pyplot as plt
from style import save

ALT = (
    "Six maps over the end s and the start t of a jump: skip above and out below, for ctm, edm and"
    " analytic. On the diagonal skip is 1 and out is 0 for all of them."
)
NODES = 121


def draw(path) -> None:
    """Two rows of maps, s across and t up, both logarithmic; jumps are where s <= t."""
    levels = torch.logspace(-2.69897, 1.90309, NODES, dtype=torch.float64)
    t, s = levels[:, None], levels
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.0), sharex=True, sharey=True)
    rows = {"skip": (0.0, 1.0), "out": (0.0, ring.teacher().spec.sigma_data)}
    for row, (what, (low, high)) in zip(axes, rows.items(), strict=True):
        for axis, (name, precond) in zip(row, ring.preconds().items(), strict=True):
            value = getattr(precond.coeffs(t, torch.minimum(s, t)), what)
            value = value.expand(NODES, NODES).masked_fill(s > t, torch.nan)
            shown = axis.pcolormesh(
                levels, levels, value, cmap="viridis", vmin=low, vmax=high, rasterized=True
            )
            lines = torch.linspace(low, high, 6)[1:-1].tolist()
            drawn = axis.contour(levels, levels, value, lines, colors="white", linewidths=0.8)
            axis.clabel(drawn, fmt="%.2g", fontsize=7)
            axis.plot(levels, levels, color="black", lw=0.8)
            axis.set(xscale="log", yscale="log", title=f"{what}(t, s) of {name}")
        figure.colorbar(shown, ax=row, shrink=0.9)
        row[0].set_ylabel("jump starts at t")
    for axis in axes[1]:
        axis.set_xlabel("jump ends at s")
    save(figure, path, ALT)
