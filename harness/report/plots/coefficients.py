"""Figures of preconditionings: skip and out over (t, s), and calibrated curves."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.lines import Line2D

from harness.report.plots.heatmap import tiles
from harness.report.plots.style import Plot, PlotStyle, log_ticks, panels, plain, plain_numbers

Fingerprints = dict[str, dict[str, Any]]

SYMBOLS = {"l": r"$l_t$", "log_S": r"$S_t$"}
ACROSS = 5  # tiles in a row
NOT_DRAWN = ("sigma", "flat")


def coefficient_maps(
    fingerprints: Fingerprints, styles: dict[str, PlotStyle], title: str, name: str
) -> Plot:
    """Maps of skip and out for all jumps t -> s of fingerprints (harness/train/coefficients.py).

    A row for each coefficient (shift included, if a preconditioning has it; more for many
    preconditionings), a tile per preconditioning, and one colour scale per coefficient. The caller
    leaves out preconditionings that equal an earlier one.
    """
    keys = [key for key in ("skip", "out", "shift") if _differs_from_zero(fingerprints, key)]
    names = list(fingerprints)
    chunks = [names[k : k + ACROSS] for k in range(0, len(names), ACROSS)]
    across, down = min(ACROSS, len(names)), len(keys) * len(chunks)
    figure, axes = panels(down, 1.5 * across + 0.8, 1.6 + 0.4 / down, columns=1)
    for axis, (key, chunk) in zip(axes, itertools.product(keys, chunks), strict=True):
        values = np.concatenate([found[key] for found in fingerprints.values()])
        norm = SymLogNorm(1e-3, vmin=0, vmax=1) if key == "skip" else _span(values)
        titled = len(chunks) > 1 or key == keys[0]
        maps = {
            styles[precond].title if titled else " " * k: _pairs(fingerprints[precond], key)
            for k, precond in enumerate(chunk)
        }
        image = tiles(axis, maps, norm, across, ends=axis is axes[-1])
        axis.set_ylabel("from t")
        bar = figure.colorbar(image, ax=axis, extend="both", pad=0.02, label=key)
        bar.ax.yaxis.set_major_formatter(plain_numbers())
        bar.ax.minorticks_off()
    axes[-1].set_xlabel("to s")
    alt = f"{', '.join(keys)} of every jump from t to s, one tile per preconditioning."
    return Plot(name, title, alt, figure)


def coefficient_slices(
    fingerprints: Fingerprints, styles: dict[str, PlotStyle], title: str, name: str
) -> Plot:
    """skip and out as lines against s, for a few starts t, all preconditionings in one panel."""
    starts = sorted(set(next(iter(fingerprints.values()))["t"]), reverse=True)
    chosen = [starts[k] for k in (0, 3, 6) if k < len(starts)]
    figure, axes = panels(2 * len(chosen), 2.3, 1.9, columns=len(chosen), sharex="col")
    for line, key in zip((axes[: len(chosen)], axes[len(chosen) :]), ("skip", "out"), strict=True):
        for axis, start in zip(line, chosen, strict=True):
            for precond, found in fingerprints.items():
                jumps = zip(found["t"], found["s"], found[key], strict=True)
                s, values = zip(*[(s, value) for t, s, value in jumps if t == start], strict=True)
                axis.plot(s, values, label=plain(styles[precond].title), **styles[precond].line())
            log_ticks(axis, axis.xaxis)
            if key == "skip":
                axis.set_title(f"jumps from t = {start:.3g}")
            else:
                axis.set_xlabel("s")
        line[0].set_ylabel(key)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    alt = (
        "skip and out against the end s of a jump, for three starts t; a line per preconditioning."
    )
    return Plot(name, title, alt, figure)


def coefficient_bands(
    found: dict[str, Any], bands: list[dict[str, Any]], title: str, name: str
) -> Plot:
    """skip and out with a basis against s, for a few starts t: a line per band.

    Lines are dark for the band of largest variance and lighter for smaller ones; dashed grey is the
    mean over coordinates, which other plots show.
    """
    starts = sorted(set(found["t"]), reverse=True)
    chosen = [starts[k] for k in (0, 3, 6) if k < len(starts)]
    figure, axes = panels(2 * len(chosen), 2.3, 1.9, columns=len(chosen), sharex="col")
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(bands)))
    for line, key in zip((axes[: len(chosen)], axes[len(chosen) :]), ("skip", "out"), strict=True):
        for axis, start in zip(line, chosen, strict=True):
            of = [k for k, t in enumerate(found["t"]) if t == start]
            s = [found["s"][k] for k in of]
            for band, shade in zip(bands, shades, strict=True):
                axis.plot(s, [band[key][k] for k in of], color=shade, lw=1)
            axis.plot(s, [found[key][k] for k in of], color="#808080", ls="--")
            log_ticks(axis, axis.xaxis)
            if key == "skip":
                axis.set_title(f"jumps from t = {start:.3g}")
            else:
                axis.set_xlabel("s")
        line[0].set_ylabel(key)
    sizes = [band["coordinates"] for band in bands]
    figure.legend(
        handles=[
            Line2D([], [], color=shades[0], label=f"largest variance, {sizes[0]} coordinates"),
            Line2D([], [], color=shades[-1], label=f"smallest variance, {sizes[-1]} coordinates"),
            Line2D([], [], color="#808080", ls="--", label="mean over coordinates"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    alt = f"skip and out against s in {len(bands)} bands of the spectrum, for three starts t."
    return Plot(name, title, alt, figure)


def calibration_curves(
    curves: dict[str, dict[str, list[float]]], styles: dict[str, PlotStyle], title: str, name: str
) -> Plot:
    """Calibrated curves against the noise level; in grey `ctm`, for which l = S = 1.

    Every name in `curves` (preconditioning -> name -> values at `sigma`, see
    `Preconditioning.shown`) has a panel. Levels where g vanishes and S is only continued are
    crossed out.
    """
    keys = list(dict.fromkeys(k for found in curves.values() for k in found if k not in NOT_DRAWN))
    figure, axes = panels(len(keys), 3.3, 2.4)
    for axis, key in zip(axes, keys, strict=True):
        for precond, found in curves.items():
            if key not in found:
                continue
            sigma, values = np.array(found["sigma"]), np.array(found[key], float)
            values = np.exp(values) if key.startswith("log_") else values
            line = styles[precond].line() | {"markevery": 0.1}
            axis.plot(sigma, values, label=plain(styles[precond].title), **line)
            flat = np.array(found.get("flat", np.zeros_like(sigma))) > 0
            if key.startswith("log_") and flat.any():
                axis.plot(sigma[flat], values[flat], "x", color="#808080")
        if key in SYMBOLS:
            axis.axhline(1, color="#808080", lw=1, ls=(0, (1, 2)), label=f"ctm: {SYMBOLS[key]} = 1")
        log_ticks(axis, axis.xaxis)
        if key.startswith("log_"):
            log_ticks(axis, axis.yaxis)
        axis.set_xlabel("noise level t")
        axis.set_title(SYMBOLS.get(key, plain(key.removeprefix("log_"))))
        axis.legend(fontsize=8)
    shown = ", ".join({"l": "l_t", "log_S": "S_t"}.get(key, key) for key in keys)
    alt = f"{shown} as measured at every noise level t; ctm is l = S = 1."
    return Plot(name, title, alt, figure)


def _pairs(found: dict[str, Any], key: str) -> dict[tuple[float, float], float]:
    return {(t, s): value for t, s, value in zip(found["t"], found["s"], found[key], strict=True)}


def _differs_from_zero(fingerprints: Fingerprints, key: str) -> bool:
    return any(value != 0 for found in fingerprints.values() for value in found[key])


def _span(values: np.ndarray) -> Normalize:
    """A linear colour scale over the central nine tenths, so that outliers do not dominate."""
    low, high = np.quantile(values, [0.05, 0.95])
    return Normalize(float(low), float(high) if high > low else float(low) + 1)
