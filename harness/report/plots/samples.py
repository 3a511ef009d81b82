"""Samples side by side: image sheets by preconditioning and NFE, and trajectories in the plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.report.plots.style import Plot, PlotStyle, panels, plain


def sample_sheets(
    sheets: dict[tuple[str, int], Path], styles: dict[str, PlotStyle], title: str, name: str
) -> Plot:
    """Sheets from `samples/*.png`: preconditionings as rows, NFE as columns, the same noise."""
    names = [precond for precond in styles if any(key[0] == precond for key in sheets)]
    steps = sorted({nfe for _, nfe in sheets})
    figure, axes = panels(len(names) * len(steps), 2.2, 2.2, columns=len(steps))
    for axis, (precond, nfe) in zip(axes, ((p, n) for p in names for n in steps), strict=True):
        axis.set_axis_off()
        if (precond, nfe) in sheets:
            sheet = np.asarray(Image.open(sheets[precond, nfe]))
            axis.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="none")
        axis.set_title(plain(f"{styles[precond].title}, NFE {nfe}"))
    across = ", ".join(map(str, steps))
    alt = f"Samples from the same noises, preconditionings down, NFE {across} across."
    return Plot(name, title, alt, figure)


def trajectories(
    paths: dict[tuple[str, int], dict[str, Any]],
    styles: dict[str, PlotStyle],
    title: str,
    name: str,
) -> Plot:
    """The teacher's ODE in grey and the student's jumps; preconditionings as rows, NFE as columns.

    Points are drawn as x / sqrt(t^2 + sigma_data^2), which has the same scale at all noise levels.
    A cross marks the end of the teacher's trajectory, a large mark that of the student.
    """
    names = [precond for precond in styles if any(key[0] == precond for key in paths)]
    steps = sorted({nfe for _, nfe in paths})
    figure, axes = panels(
        len(names) * len(steps), 2.3, 2.3, columns=len(steps), sharex=True, sharey=True
    )
    reach = max(_reach(found) for found in paths.values())
    axes[0].set(xlim=(-reach, reach), ylim=(-reach, reach))
    for axis, (precond, nfe) in zip(axes, ((p, n) for p in names for n in steps), strict=True):
        style = styles[precond]
        axis.set_aspect("equal")
        axis.set_title(plain(f"{style.title}, NFE {nfe}"))
        found = paths.get((precond, nfe))
        if found is None:
            continue
        truth = _scaled(found["teacher"], found["levels"], found["sigma_data"])
        jumps = _scaled(found["student"], found["nodes"], found["sigma_data"])
        axis.plot(*_joined(truth), color="#a0a0a0", lw=1.2)
        axis.plot(*_joined(jumps), color=style.colour, lw=0.8, marker=".", markersize=3)
        axis.plot(*jumps[:, -1].T, style.marker, color=style.colour, markersize=4)
        axis.plot(*truth[:, -1].T, "x", color="#606060", markersize=5, mew=1.2)
    figure.supxlabel(
        r"$x/\sqrt{t^2+\sigma_d^2}$; grey: the teacher's ODE and its end (×);"
        "\ncolour: the student's jumps and, large, its end",
        fontsize=8,
    )
    alt = (
        "Where 12 noises go, scaled so that noise and data have one size. Grey: the teacher's ODE"
        " and its end (×). Colour: the student's jumps and, large, its end."
    )
    return Plot(name, title, alt, figure)


def _reach(found: dict[str, Any]) -> float:
    """Axis limit: the largest coordinate of the teacher's scaled points, with a margin."""
    truth = _scaled(found["teacher"], found["levels"], found["sigma_data"])
    return 1.08 * float(np.abs(truth).max())


def _joined(walks: np.ndarray) -> np.ndarray:
    """Trajectories [B, K, 2] as x and y of one line, separated by nan."""
    return np.pad(walks, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan).reshape(-1, 2).T


def _scaled(walks: list[Any], levels: list[float], sigma_data: float) -> np.ndarray:
    """[B, K, 2] divided by the standard deviation of the marginal at each level."""
    return np.asarray(walks, float) / np.sqrt(np.square(levels) + sigma_data**2)[:, None]
