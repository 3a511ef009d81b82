"""Figures from files: looks, curves behind them, censoring, every picture a grid can have."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from harness.report.curves import curve_points
from harness.report.plots.draw import explained, gap_maps, measured, styles_of, write_plots
from harness.report.plots.profile import speed_profile
from harness.report.plots.speed import speed_bars
from harness.report.plots.style import plot_styles
from harness.report.write import build_report
from harness.store.store import ResultStore
from tests.synthetic_results import quality, spec, write_results

ROOT = Path(__file__).parents[2]
NAMES = ("ctm", "edm", "mine")


def cells(*names, seeds=(0, 1), **more):
    return [spec(name, seed, **more) for name in names or NAMES for seed in seeds]


def test_preconditionings_are_told_apart_without_colour_and_twins_are_rings():
    names = [f"s{k}" for k in range(28)]
    found = plot_styles(["bcm", *names, "ctm"], "ctm", {"bcm": "ctm"})
    assert next(iter(found)) == "ctm"
    assert found["ctm"].colour == "#000000"
    assert (found["bcm"].colour, found["bcm"].filled) == ("#000000", False)
    assert found["bcm"].legend == "bcm (= ctm)"
    assert found["ctm"].title == "ctm = bcm"
    own = [look for name, look in found.items() if name != "bcm"]
    assert len({(look.colour, look.marker) for look in own}) == len(own)
    assert len({(look.marker, look.dash) for look in own[:8]}) == 8  # in greyscale


def test_curves_count_a_diverged_seed_and_add_what_calibration_took(tmp_path):
    seeds = (0, 1, 2)
    store = write_results(tmp_path, cells("ctm", "mine", seeds=seeds))
    worst = store.run_at(spec("mine", 0).run_id)
    status = {"state": "diverged", "reason": "loss at step 500"}
    (worst.path / "status.json").write_text(json.dumps(status))
    lines = (worst.path / "eval.jsonl").read_text().splitlines()
    (worst.path / "eval.jsonl").write_text("\n".join(lines[:4]) + "\n")
    report = build_report(store, "synthetic")
    points = curve_points(report.rows, report.cells).set_index(["precond", "nfe", "step"])
    last = points.loc["mine", 1, 800]
    assert last["seeds"] == 3
    assert last["high"] == math.inf
    values = sorted(quality(spec("mine", seed), 800, 1, "frechet") for seed in (1, 2))
    assert (last["low"], last["median"]) == pytest.approx(values)
    assert points.loc["ctm", 1, 800]["seconds"] == pytest.approx(8.0 + 2.0)


def test_seconds_of_two_machines_are_not_drawn_together(tmp_path):
    store = write_results(tmp_path, cells("ctm"))
    write_results(tmp_path, cells("mine"), hardware="1 x other")
    write_results(tmp_path / "b", cells("ctm", "mine"))
    matrix = tmp_path / "b" / "tables" / "synthetic" / "matrix.json"
    shutil.copy(matrix, tmp_path / "tables" / "synthetic" / "matrix.json")
    report = build_report(store, "synthetic")
    assert curve_points(report.rows, report.cells)["seconds"].isna().all()
    names = {path.name for path in write_plots(report, tmp_path / "plots")}
    kinds = ("quality-images", "speed", "profile")
    assert names == {f"{what}--frechet.{e}" for what in kinds for e in KINDS}


KINDS = ("svg", "png")


def test_a_censored_speed_up_is_open_hatched_and_has_an_arrow(tmp_path):
    def value(each, step, nfe, metric):
        slow = {"ctm": 1.0, "mine": 1.5, "edm": 9.0}[each.precond.name]
        return slow * step**-0.5 / nfe

    report = build_report(write_results(tmp_path, cells(), value=value), "synthetic")
    bounds = report.speed[report.speed["nfe"] == 1].set_index("precond")["bound"]
    assert (bounds["edm"], bounds["ctm"]) == ("<", "")
    plot = speed_bars(report.speed, styles_of(report), "", "speed")
    axis = plot.figure.axes[0]
    hatched = [bool(bar.get_hatch()) for bar in axis.patches]
    assert hatched == [False, True, True]
    assert [line.get_marker() for line in axis.lines].count("<") == 2
    assert "edm at NFE 1" in plot.alt
    assert "never got there: at most" in plot.alt


def test_bounds_of_the_profile_are_triangles_and_a_lead_that_ends_is_marked(tmp_path):
    def value(each, step, nfe, metric):
        ahead = {"ctm": [9, 5, 3, 1], "mine": [8, 4, 3.5, 2.5], "edm": [99, 60, 50, 40]}
        return ahead[each.precond.name][[100, 200, 400, 800].index(step)]

    report = build_report(write_results(tmp_path, cells(), value=value), "synthetic")
    plot = speed_profile(report.profile, styles_of(report), "", "profile")
    axis = plot.figure.axes[0]
    markers = [line.get_marker() for line in axis.lines]
    assert markers.count("v") > 13  # edm, everywhere, and mine where only ctm gets
    assert markers.count("^") == 0
    low, high = axis.get_xlim()
    assert low > 9 > 1 > high  # from easy to hard
    to = report.profile.query("precond == 'mine' and nfe == 1")["lead_to"].iloc[0]
    strokes = [line for line in axis.lines if list(line.get_ydata()) == [0, 0.07]]
    assert [line.get_xdata()[0] for line in strokes] == [to]
    assert f"mine leads at NFE 1 from 8.97 to {to:.3g}, then slower" in plot.alt


@pytest.mark.parametrize(("grid", "shown"), [("quickstart", "trajectories"), ("digits", "samples")])
def test_what_is_published_has_every_kind_of_figure(grid, shown, tmp_path):
    report = build_report(ResultStore(ROOT / "results" / grid), grid)
    for frame in (report.rows, report.speed, report.profile):
        kept = (frame["metric"] == "frechet") & (frame["nfe"] == 2)
        frame.drop(frame.index[~kept], inplace=True)
    look = styles_of(report)
    assert {plot.name for plot in measured(report, look)} == {
        f"{what}--frechet" for what in ("quality-images", "quality-seconds", "speed", "profile")
    }
    plots = {plot.name: plot for _, plot in explained(report, look)}
    assert set(plots) == {"coefficients", "slices", "calibration", shown}
    svg, png = plots[shown].save(tmp_path)
    image = Image.open(png).convert("L")
    assert min(image.size) > 600
    assert image.getextrema()[0] < 100
    first = svg.read_bytes()
    assert plots[shown].title.encode() in first
    again = {plot.name: plot for _, plot in explained(report, look)}[shown]
    assert again.save(tmp_path)[0].read_bytes() == first


def test_a_report_shows_the_gaps_that_were_measured_of_its_own_teacher(tmp_path):
    store = write_results(tmp_path, cells("ctm", digest="12e4"))
    for digest, value in (("12e4", 1.0), ("120000", 2.0)):
        folder = tmp_path / "tables" / "gap" / f"gmm-{digest}"
        folder.mkdir(parents=True)
        row = {"teacher": "gmm", "digest": digest, "precond": "ctm", "t": 80.0, "s": 0.002}
        frame = pd.DataFrame([row | dict.fromkeys(("to_t", "to_s", "untrained"), value)])
        frame.to_csv(folder / "gap.csv", index=False)
    report = build_report(store, "synthetic")
    plots = [plot for _, plot in explained(report, styles_of(report))]
    assert [plot.name for plot in plots] == ["gap-to-t", "gap-to-s", "gap-untrained"]
    (image,) = plots[0].figure.axes[0].images
    assert image.get_array().compressed().tolist() == [1.0]


def test_gap_maps_show_every_preconditioning_on_one_scale():
    records = [
        {"precond": name, "t": t, "s": s, "to_t": value, "to_s": 0.0, "untrained": value}
        for name, value in (("ctm", 0.1), ("a$b$", 10.0))
        for t, s in ((80.0, 1.0), (80.0, 0.002), (1.0, 0.002))
    ]
    plots = list(gap_maps(pd.DataFrame(records), "gmm"))
    assert [plot.name for plot in plots] == ["gap-to-t", "gap-to-s", "gap-untrained"]
    assert "ctm, a$b$" in plots[0].alt
    (image,) = plots[0].figure.axes[0].images
    assert sorted(set(image.get_array().compressed())) == [0.1, 10.0]
