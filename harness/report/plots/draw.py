"""Every figure of a grid, one after the other; `report --plots` writes them as svg and png."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from harness.report.curves import curve_points
from harness.report.frame import PROBLEM, PROTOCOL
from harness.report.plots.coefficients import (
    calibration_curves,
    coefficient_bands,
    coefficient_maps,
    coefficient_slices,
)
from harness.report.plots.heatmap import heat_maps
from harness.report.plots.profile import speed_profile
from harness.report.plots.quality import quality
from harness.report.plots.samples import sample_sheets, trajectories
from harness.report.plots.speed import speed_bars
from harness.report.plots.style import RC, Plot, PlotStyle, plain, plot_styles
from harness.report.render import name_problem, name_protocol
from harness.report.sources import (
    fingerprints,
    gaps,
    problems,
    samples,
    twins,
)
from harness.report.speed import LAST
from harness.report.words import trained_for
from harness.report.write import Report
from harness.store.files import read_json

GAPS = {
    "to_t": "Consistency gap to the teacher at t (RMS)",
    "to_s": "Consistency gap to the teacher at s (RMS)",
    "untrained": "Error of the untrained student (RMS)",
}


def styles_of(report: Report) -> dict[str, PlotStyle]:
    """The styles of every preconditioning of a grid."""
    return plot_styles(report.cells["precond"], report.baseline, twins(report))


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Write all figures of a grid into `folder`; returns the paths."""
    styles = styles_of(report)
    plots = (*measured(report, styles), *(plot for _, plot in explained(report, styles)))
    return [path for plot in plots for path in plot.save(folder)]


def measured(report: Report, styles: dict[str, PlotStyle]) -> Iterator[Plot]:
    """Figures of results: quality along training and speed-ups, by problem and protocol."""
    protocol = [*PROBLEM, *PROTOCOL]
    for key, points in curve_points(report.rows, report.cells).groupby(protocol, sort=False):
        named = dict(zip(protocol, key, strict=True))
        title, end = f"{name_problem(named)}\n{name_protocol(named)}", _slug(named, report)
        with matplotlib.rc_context(RC):
            yield quality(points, styles, title, f"quality-images{end}", "images")
            if points["seconds"].notna().any():
                yield quality(points, styles, title, f"quality-seconds{end}", "seconds")
    for key, speed in report.speed.groupby([*protocol, "target"], sort=False):
        named = dict(zip([*protocol, "target"], key, strict=True))
        goal = f"{report.baseline}'s last value" if named["target"] == LAST else named["target"]
        reached = f"to reach {goal}; {trained_for(speed)}"
        title = f"{name_problem(named)}\n{name_protocol(named)}\n{reached}"
        with matplotlib.rc_context(RC):
            yield speed_bars(speed, styles, title, f"speed{_slug(named, report)}")
    for key, profile in report.profile.groupby(protocol, sort=False):
        named = dict(zip(protocol, key, strict=True))
        title = f"{name_problem(named)}\n{name_protocol(named)}; {trained_for(profile)}"
        with matplotlib.rc_context(RC):
            yield speed_profile(profile, styles, title, f"profile{_slug(named, report)}")


def explained(
    report: Report, styles: dict[str, PlotStyle], sheets: bool = True
) -> Iterator[tuple[int, Plot]]:
    """Figures that explain results: coefficients, calibrations, gaps, samples, trajectories.

    Each with the index of its problem. Preconditionings that equal an earlier one are named in its
    panel and have none of their own. `sheets`: whether to include sheets of image samples.
    """
    seen = set()
    alike = twins(report)
    for number, (named, cells) in enumerate(problems(report)):
        own = cells[~cells["precond"].isin(alike)]
        end, about = _slug(named, report), (named["teacher"], named["dataset"])
        with matplotlib.rc_context(RC):
            if about not in seen:  # coefficients do not depend on the objective
                seen.add(about)
                name = about[0] if about[1] == "teacher" else f"{about[0]} on {about[1]}"
                for plot in _of_teacher(styles, own, name, end):
                    yield number, plot
                for plot in gap_maps(gaps(report, cells), name, end):
                    yield number, plot
            for plot in _of_students(styles, own, name_problem(named), end, sheets):
                yield number, plot


def _of_teacher(
    styles: dict[str, PlotStyle], cells: pd.DataFrame, name: str, end: str
) -> Iterator[Plot]:
    found = fingerprints(cells)
    found = {precond: found[precond] for precond in styles if precond in found}
    if found:
        yield coefficient_maps(found, styles, f"Coefficients: {name}", f"coefficients{end}")
        yield coefficient_slices(found, styles, f"Coefficients along s: {name}", f"slices{end}")
    for precond, value in found.items():
        if bands := value.get("bands"):
            title = f"Coefficients by band, {plain(styles[precond].title)}: {name}"
            slug = re.sub(r"[^a-z0-9]+", "-", precond.lower()).strip("-")
            yield coefficient_bands(value, bands, title, f"bands-{slug}{end}")
    curves = {precond: value["curves"] for precond, value in found.items() if "curves" in value}
    if curves:
        yield calibration_curves(curves, styles, f"Calibration: {name}", f"calibration{end}")


def _of_students(
    styles: dict[str, PlotStyle], cells: pd.DataFrame, name: str, end: str, sheets: bool
) -> Iterator[Plot]:
    which, images = samples(cells, "png") if sheets else ("", {})
    if images:
        yield sample_sheets(images, styles, f"Samples: {name}, {which}", f"samples{end}")
    which, files = samples(cells, "json")
    if files:
        walks = {key: read_json(path) for key, path in files.items()}
        yield trajectories(walks, styles, f"Trajectories: {name}, {which}", f"trajectories{end}")


def gap_maps(gaps: pd.DataFrame, about: str, end: str = "") -> Iterator[Plot]:
    """Three heat maps of the results of `gap`, a frame with columns precond, t, s, to_t, ..."""
    for quantity, title in GAPS.items() if len(gaps) else ():
        maps = {
            str(precond): {(t, s): v for t, s, v in mine[["t", "s", quantity]].itertuples(False)}
            for precond, mine in gaps.groupby("precond", sort=False)
        }
        with matplotlib.rc_context(RC):
            yield heat_maps(maps, f"{title}, {about}", f"gap-{quantity.replace('_', '-')}{end}")


def _slug(named: dict[str, Any], report: Report) -> str:
    """Suffix of a file name: the metric, and all else that differs within the grid."""
    parts = []
    for key, value in named.items():
        known = report.speed if key == "target" else report.cells
        if key in PROTOCOL:
            known = report.rows[report.rows["metric"] == named["metric"]]
        if key == "metric" or known[key].nunique() > 1:
            parts.append(re.sub(r"[^A-Za-z0-9.=]+", "-", str(value)).strip("-"))
    return "".join(f"--{part}" for part in parts)
