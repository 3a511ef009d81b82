"""Where one jump lands before training, for three preconditionings of the teacher's own network."""

from __future__ import annotations

import ring
import torch
from matplotlib import pyplot as plt
from style import BLACK, LINES, save

ALT = (
    "Ends of one jump from 2.5 to 0.47 in the plane: points on the trajectories, and where the"
    " untrained student lands instead: analytic nearest, then ctm, edm far off near the centre."
)
MARKERS = {"ctm": "s", "edm": "^", "analytic": "D"}


def draw(path) -> None:
    """One panel; a line joins each landing with the point that it should have met."""
    figure, axis = plt.subplots(figsize=(6.2, 4.6))
    levels = ring.fine()
    t, s = levels[30], levels[40]  # the second of three jumps starts near here
    start = ring.paths(ring.noises(28), torch.stack([levels[0], t]))[-1]
    end = ring.scaled(ring.paths(start, torch.stack([t, s]))[-1], s)
    axis.scatter(*end.T, s=36, color="white", edgecolor=BLACK, lw=1, label="on the ODE", zorder=2)
    for name in ring.NAMES:
        jumped = ring.untrained(name).jump(start, t.expand(len(start)), s.expand(len(start)))
        landed = ring.scaled(jumped, s)
        colour = LINES[name]["color"]
        axis.plot(*torch.stack([end, landed]).permute(2, 0, 1), color=colour, lw=0.6, zorder=1)
        axis.scatter(*landed.T, s=16, marker=MARKERS[name], color=colour, label=name, zorder=3)
    axis.set(
        title=f"one jump {t:.2g} → {s:.2g} before training",
        xlabel=r"$x_1\,/\,\sqrt{s^2+\sigma_d^2}$",
        ylabel=r"$x_2\,/\,\sqrt{s^2+\sigma_d^2}$",
        aspect="equal",
    )
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path, ALT)
