"""One look for the documentation's figures: colours that the colour-blind can tell apart, dashes
that a grey print can."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

#: Okabe and Ito's colours
BLACK, ORANGE, BLUE, GREEN, SKY = "#000000", "#d55e00", "#0072b2", "#009e73", "#56b4e9"
PALE = "#b8b8b8"

#: a preconditioning keeps its line wherever it is drawn
LINES = {
    "ctm": {"color": BLACK, "linestyle": "-"},
    "edm": {"color": ORANGE, "linestyle": (0, (5, 2))},
    "analytic": {"color": BLUE, "linestyle": (0, (1.5, 1.2))},
}

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "svg.hashsalt": "precondbench",  # the same figure gives the same file
    }
)


def save(figure: plt.Figure, path: Path, alt: str) -> None:
    """Write an SVG on white, titled with what it shows for those who cannot see it."""
    figure.savefig(path, facecolor="white", metadata={"Date": None, "Title": alt})
    plt.close(figure)
