"""Tables on curves whose answer is known by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.report.area import area_table
from harness.report.comparisons import comparisons
from harness.report.frame import CELL_COLUMNS, COLUMNS
from harness.report.leaderboard import coverage, leaderboard
from harness.report.reach import Curves, ratios
from harness.report.speed import speed_table
from harness.report.statistics import Groups, confidence

STEPS = [100, 200, 400, 800]


def rows(values, nfe=2, lower=True, metric="frechet"):
    """values: {(precond, seed): value at each of STEPS}."""
    records = [
        {
            "run_id": f"{precond}-{seed}",
            "precond": precond,
            "teacher": "gmm",
            "objective": "ctm",
            "dataset": "teacher",
            "setting": "",
            "seed": seed,
            "step": step,
            "images": step * 10,
            "seconds": step / 100,
            "nfe": nfe,
            "metric": metric,
            "extractor": "raw",
            **{"sampler": "exact", "ema": "", "eval_seed": 0},
            "n": 50,
            "reference_n": 50,
            "value": value,
            "std": None,
            "lower_is_better": lower,
        }
        for (precond, seed), curve in values.items()
        for step, value in zip(STEPS, curve, strict=False)
    ]
    return pd.DataFrame(records, columns=COLUMNS)


def cells(frame, **more):
    base = frame.drop_duplicates("run_id")[
        ["run_id", "precond", "teacher", "objective", "dataset", "setting", "seed"]
    ]
    defaults = {
        "state": "done",
        "reason": "",
        "have": 4,
        "wanted": 4,
        "hardware": "cpu",
        "commit": "abc",
        "date": "",
        "folder": "",
        "drawn": "",
        "calibration_seconds": 0.0,
        "calibration_evaluations": 0.0,
    }
    return base.assign(**{**defaults, **more})[CELL_COLUMNS]


def compared(frame, info=None, marks=None):
    """With ctm, for the tables that are made from it."""
    return comparisons(frame, cells(frame) if info is None else info, "ctm", marks or {})


def reach(costs, goal, clock="images"):
    """Lower and upper end of what a curve needs to a goal."""
    steps = np.array([STEPS], float)
    low, high = Curves(np.array([costs]), steps * 10, steps / 100).reach(np.array([[goal]]), clock)
    return low.item(), high.item()


def test_reach_interpolates_log_linearly():
    low, high = reach([16.0, 4.0, 1.0, 0.25], 2.0)
    assert low == high == pytest.approx(3000)  # half way in log
    assert reach([16.0, 4.0, 1.0, 0.25], 2.0, "seconds")[0] == pytest.approx(3.0)


def test_reach_knows_what_it_does_not_know():
    assert reach([1.0, 0.5, 0.4, 0.3], 2.0) == (0, 1000)  # there at first sight
    assert reach([4.0, 3.0, 3.0, 2.5], 2.0) == (8000, math.inf)  # never
    assert reach([4.0, 1.0, 9.0, 9.0], 2.0)[1] < 2000  # the first crossing counts
    assert reach([-1.0, -3.0, -5.0, -7.0], -2.0)[0] == pytest.approx(1500)
    diverged = [4.0, math.inf, math.inf, math.inf]
    assert reach(diverged, 2.0)[1] == math.inf
    assert reach(diverged, math.inf)[1] == math.inf  # no number: nobody reaches it


def test_ratios_keep_their_bounds():
    seen, never, early = (100, 100), (200, math.inf), (0, 50)
    for a, b, expected in (
        (seen, (50, 50), (2, 2)),
        (seen, never, (0, 0.5)),
        (never, seen, (2, math.inf)),
        (seen, early, (2, math.inf)),
        (early, never, (0, 0.25)),
        (early, early, (0, math.inf)),
        (never, never, (0, math.inf)),
    ):
        found = ratios(tuple(map(np.array, a)), tuple(map(np.array, b)))
        assert tuple(end.item() for end in found) == expected


def test_speed_up_is_paired_by_seed_and_censored_honestly():
    frame = rows(
        {
            ("ctm", 0): [8.0, 4.0, 2.0, 1.0],
            ("ctm", 1): [8.0, 4.0, 2.0, 1.0],
            ("ctm", 2): [8.0, 4.0, 2.0, 0.5],
            ("new", 0): [4.0, 2.0, 1.0, 0.5],  # reaches 1.0 at 400: twice as fast
            ("new", 1): [2.0, 1.0, 0.5, 0.2],  # at 200: four times
            ("new", 2): [8.0, 4.0, 2.0, 0.6],  # never reaches 0.5: at most once
        }
    )
    table = speed_table(compared(frame), {"frechet": [4.0]})
    new = table[(table["precond"] == "new") & (table["target"] == "baseline's last")].iloc[0]
    assert new["speedup"] == pytest.approx(2)
    assert (new["speedup_low"], new["speedup_high"]) == (0, pytest.approx(4))
    assert (new["seeds"], new["censored"], new["bound"]) == (3, 1, "")
    assert new["confidence"] == 0.75
    assert new["images"] == pytest.approx(4000)
    absolute = table[(table["precond"] == "new") & (table["target"] == "4.0")].iloc[0]
    assert (absolute["bound"], absolute["speedup"]) == (">", 2)  # early, early, 1
    own = table[table["precond"] == "ctm"]
    assert (own["speedup"] == 1).all()
    assert (own["bound"] == "").all()


def test_one_seed_has_no_interval_and_early_crossings_are_bounds():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("new", 0): [0.9, 0.8, 0.7, 0.6]})
    new = speed_table(compared(frame), {}).set_index("precond").loc["new"]
    assert (new["bound"], new["speedup"]) == (">", 8.0)
    assert math.isnan(new["speedup_low"])
    assert math.isnan(new["confidence"])
    twin = speed_table(compared(frame, marks={("gmm", "new"): "ctm"}), {})
    assert twin.set_index("precond").loc["new", "speedup"] == 1  # rounding is no speed-up


def test_a_diverged_seed_is_the_worst_and_never_vanishes():
    frame = rows(
        {
            ("ctm", 0): [8.0, 4.0, 2.0, 1.0],
            ("ctm", 1): [8.0, 4.0, 2.0, 1.0],
            ("new", 0): [4.0, 2.0, 1.0, 0.5],
            ("new", 1): [4.0, 2.0],
        }
    )
    info = cells(frame)
    info.loc[info["run_id"] == "new-1", "state"] = "diverged"
    board = leaderboard(frame, info, {}).set_index("precond")
    assert board.loc["new", "median"] == math.inf
    assert board.loc["new", "coverage"] == "1 of 2 (1 diverged)"
    assert (board.loc["new", "seeds"], board.loc["new", "diverged"]) == (2, 1)
    new = speed_table(compared(frame, info), {}).set_index("precond").loc["new"]
    assert (new["seeds"], new["censored"]) == (2, 1)
    assert (new["bound"], new["speedup"]) == ("<", 1.0)  # the lower median of 2 and [0, 1]
    assert new["speedup_high"] == pytest.approx(2)
    areas = area_table(compared(frame, info)).set_index("precond")
    assert areas.loc["new", "area"] == -math.inf
    # where a diverged baseline ends up, nobody can be faster or slower
    info.loc[info["run_id"] == "ctm-0", "state"] = "diverged"
    frame = frame.drop(frame[(frame["run_id"] == "ctm-0") & (frame["step"] > 200)].index)
    new = speed_table(compared(frame, info), {}).set_index("precond").loc["new"]
    assert (new["seeds"], new["speedup_low"], new["speedup_high"]) == (2, 0, math.inf)


def test_area_is_the_mean_log_ratio_over_log_images():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("new", 0): [4.0, 2.0, 1.0, 0.5]})
    areas = area_table(compared(frame)).set_index("precond")["area"]
    assert (areas["ctm"], areas["new"]) == (0, pytest.approx(math.log(2)))
    frame["lower_is_better"] = False
    areas = area_table(compared(frame)).set_index("precond")["area"]
    assert areas["new"] == pytest.approx(-math.log(2))
    frame.loc[frame["precond"] == "new", "value"] -= 1  # a value that has no logarithm
    areas = area_table(compared(frame)).set_index("precond")["area"]
    assert math.isnan(areas["new"])


def test_a_budget_of_no_training_is_exact_and_off_the_log_axis():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("new", 0): [0.5, 2.0, 1.0, 0.5]})
    frame.loc[frame["step"] == 100, ["images", "seconds"]] = 0
    new = speed_table(compared(frame), {}).set_index("precond").loc["new"]
    assert (new["bound"], new["speedup"], new["images"]) == ("", math.inf, 0)
    areas = area_table(compared(frame)).set_index("precond")["area"]
    assert areas["new"] == pytest.approx(math.log(2))


def test_median_of_censored_speed_ups_is_marked_as_a_bound():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("slow", 0): [9.0, 9.0, 9.0, 9.0]})
    slow = speed_table(compared(frame), {}).set_index("precond").loc["slow"]
    assert (slow["bound"], slow["speedup"]) == ("<", 1.0)


def test_seconds_include_calibration_and_need_one_hardware():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("new", 0): [4.0, 2.0, 1.0, 0.5]})
    info = cells(frame)
    info.loc[info["precond"] == "new", "calibration_seconds"] = 4.0
    new = speed_table(compared(frame, info), {}).set_index("precond").loc["new"]
    assert new["speedup_seconds"] == pytest.approx(2)
    assert new["speedup_seconds_with_calibration"] == pytest.approx(8 / (4 + 4))
    info.loc[info["precond"] == "new", "hardware"] = "gpu"
    new = speed_table(compared(frame, info), {}).set_index("precond").loc["new"]
    assert math.isnan(new["speedup_seconds"])


def test_partial_seeds_are_shown_without_rank_and_left_out_of_speed():
    frame = rows(
        {("ctm", 0): [4, 3, 2, 1.0], ("ctm", 1): [4, 3, 2, 1.2], ("new", 0): [4, 3, 2, 0.1]}
    )
    info = pd.concat(
        [cells(frame), cells(frame).query("precond == 'new'").assign(seed=1, run_id="x")]
    )
    board = leaderboard(frame, info, {}).set_index("precond")
    assert board.loc["ctm", "rank"] == 1
    assert pd.isna(board.loc["new", "rank"])
    assert (board.loc["new", "seeds"], board.loc["new", "seeds_planned"]) == (1, 2)
    half = rows({("ctm", 0): [4, 3, 2, 1.0], ("new", 0): [4, 3]})
    info = cells(half)
    info.loc[info["precond"] == "new", "state"] = "interrupted"
    new = speed_table(compared(half, info), {}).set_index("precond").loc["new"]
    assert new["seeds"] == 0
    assert math.isnan(new["speedup"])
    new = leaderboard(half, info, {}).set_index("precond").loc["new"]
    assert new["coverage"] == "0 of 1 (1 interrupted)"


def test_equal_preconditionings_share_a_rank_and_higher_can_be_better():
    frame = rows(
        {("ctm", 0): [1, 1, 1, 1.0], ("bcm", 0): [1, 1, 1, 1.1], ("edm", 0): [1, 1, 1, 3.0]}
    )
    marks = {("gmm", "bcm"): "ctm"}
    board = leaderboard(frame, cells(frame), marks).set_index("precond")["rank"]
    assert (board["ctm"], board["bcm"], board["edm"]) == (1, 1, 2)  # one function counts once
    board = leaderboard(frame, cells(frame), marks).set_index("precond")["combined_rank"]
    assert (board["ctm"], board["bcm"], board["edm"]) == (1, 1, 2)
    frame["lower_is_better"] = False
    board = leaderboard(frame, cells(frame), marks).set_index("precond")["rank"]
    assert board["edm"] == 1


def test_what_the_seeds_do_not_tell_apart_is_a_tie():
    last = {"a": [1.0, 1.2, 1.4], "b": [0.9, 1.1, 1.5], "c": [1.1, 1.3, 1.5]}
    frame = rows(
        {
            (name, seed): [9, 9, 9, v]
            for name, values in last.items()
            for seed, v in enumerate(values)
        }
    )
    board = leaderboard(frame, cells(frame), {}).set_index("precond")
    # c loses to a on every seed (though their ranges overlap); b beats nobody on every seed
    assert board["rank"].to_dict() == {"a": 1, "b": 1, "c": 2}
    assert board["tied"].to_dict() == {"a": True, "b": True, "c": False}


def test_combined_rank_orders_the_mean_over_nfes():
    few = rows({("a", 0): [9, 9, 9, 1.0], ("b", 0): [9, 9, 9, 2.0], ("c", 0): [9, 9, 9, 3.0]})
    many = rows({("a", 0): [9, 9, 9, 3.0], ("b", 0): [9, 9, 9, 1.0]}, nfe=9)
    frame = pd.concat([few, many])
    board = leaderboard(frame, cells(frame), {}).drop_duplicates("precond").set_index("precond")
    assert board["mean_rank"][["a", "b"]].tolist() == [1.5, 1.5]
    assert board["combined_rank"][["a", "b"]].tolist() == [1, 1]
    assert pd.isna(board.loc["c", "combined_rank"])  # it has no rank at 9


def test_coverage_counts_states_and_skips():
    frame = rows({("ctm", 0): [4, 3, 2, 1.0], ("ctm", 1): [4, 3, 2, 1.0]})
    info = cells(frame)
    info.loc[info["seed"] == 1, ["state", "reason", "have"]] = ["diverged", "loss at step 3", 2]
    table = coverage(info, [{"cell": "edm x gmm", "reason": "excluded"}])
    assert table.iloc[0]["done"] == 1
    assert table.iloc[0]["numbers"] == "6 of 8"
    assert "loss at step 3" in table.iloc[0]["reasons"]
    assert table.iloc[1]["states"] == "skipped"


def test_intervals_of_thousands_of_seeds():
    for n in (1000, 1001, 3000):
        _, low, high = Groups(np.zeros(n, int), 1).summary(np.arange(float(n)))
        assert confidence(n) == pytest.approx(0.952, abs=0.003)
        half = 0.98 * n**0.5  # 1.96 standard deviations of the binomial
        assert (n / 2 - low, high - n / 2) == pytest.approx((half, half), rel=0.05)
