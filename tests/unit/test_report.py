"""Tables on curves whose answer is known by hand."""

import math

import pandas as pd
import pytest

from harness.report.frame import COLUMNS
from harness.report.leaderboard import coverage, leaderboard
from harness.report.speed import reach, speed_table

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
            "seed": seed,
            "step": step,
            "images": step * 10,
            "seconds": step / 100,
            "nfe": nfe,
            "metric": metric,
            "extractor": "raw",
            "n": 50,
            "reference_n": 50,
            "value": value,
            "lower_is_better": lower,
        }
        for (precond, seed), curve in values.items()
        for step, value in zip(STEPS, curve, strict=False)
    ]
    return pd.DataFrame(records, columns=COLUMNS)


def cells(frame, **more):
    base = frame.drop_duplicates("run_id")[
        ["run_id", "precond", "teacher", "objective", "dataset", "seed"]
    ]
    defaults = {
        "state": "done",
        "reason": "",
        "have": 4,
        "wanted": 4,
        "hardware": "cpu",
        "calibration_seconds": 0.0,
        "calibration_evaluations": 0.0,
    }
    return base.assign(**{**defaults, **more})


def curve(values, lower=True):
    return rows({("a", 0): values}, lower=lower)


def test_reach_interpolates_log_linearly():
    found = reach(curve([16.0, 4.0, 1.0, 0.25]), 2.0)
    assert found.images == pytest.approx(3000)  # half way in log between 2000 and 4000
    assert found.seconds == pytest.approx(3.0)
    assert not found.censored


def test_reach_edges():
    assert reach(curve([1.0, 0.5, 0.4, 0.3]), 2.0).images == 1000  # there at the first look
    assert reach(curve([4.0, 3.0, 3.0, 2.5]), 2.0).censored
    assert reach(curve([4.0, 1.0, 9.0, 9.0]), 2.0).images < 2000  # the first crossing counts
    assert reach(curve([-1.0, 1.0, 3.0, 5.0], lower=False), 2.0).images == pytest.approx(3000)


def test_speed_up_is_paired_by_seed_and_censored_honestly():
    frame = rows(
        {
            ("ctm", 0): [8.0, 4.0, 2.0, 1.0],
            ("ctm", 1): [8.0, 4.0, 2.0, 1.0],
            ("ctm", 2): [8.0, 4.0, 2.0, 0.5],
            ("new", 0): [4.0, 2.0, 1.0, 0.5],  # reaches 1.0 at 400: twice as fast
            ("new", 1): [2.0, 1.0, 0.5, 0.2],  # at 200: four times
            ("new", 2): [8.0, 4.0, 2.0, 0.6],  # never reaches 0.5
        }
    )
    table = speed_table(frame, cells(frame), "ctm", {"frechet": [4.0]}, {})
    new = table[(table["precond"] == "new") & (table["target"] == "baseline's last")].iloc[0]
    assert new["speedup"] == pytest.approx(2)
    assert (new["speedup_low"], new["speedup_high"]) == (pytest.approx(1), pytest.approx(4))
    assert (new["seeds"], new["censored"], new["bound"]) == (3, 1, "")
    absolute = table[(table["precond"] == "new") & (table["target"] == "4.0")].iloc[0]
    assert absolute["speedup"] == pytest.approx(2)
    own = table[(table["precond"] == "ctm") & (table["target"] == "baseline's last")].iloc[0]
    assert own["speedup"] == 1


def test_median_of_censored_speed_ups_is_marked_as_a_bound():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("slow", 0): [9.0, 9.0, 9.0, 9.0]})
    slow = speed_table(frame, cells(frame), "ctm", {}, {}).set_index("precond").loc["slow"]
    assert (slow["bound"], slow["speedup"]) == ("<", 1.0)


def test_seconds_include_calibration_and_need_one_hardware():
    frame = rows({("ctm", 0): [8.0, 4.0, 2.0, 1.0], ("new", 0): [4.0, 2.0, 1.0, 0.5]})
    info = cells(frame)
    info.loc[info["precond"] == "new", "calibration_seconds"] = 4.0
    new = speed_table(frame, info, "ctm", {}, {}).set_index("precond").loc["new"]
    assert new["speedup_seconds"] == pytest.approx(2)
    assert new["speedup_seconds_with_calibration"] == pytest.approx(8 / (4 + 4))
    info.loc[info["precond"] == "new", "hardware"] = "gpu"
    new = speed_table(frame, info, "ctm", {}, {}).set_index("precond").loc["new"]
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
    assert "new" not in set(speed_table(half, cells(half), "ctm", {}, {})["precond"])


def test_equal_strategies_share_a_rank_and_higher_can_be_better():
    frame = rows(
        {("ctm", 0): [1, 1, 1, 1.0], ("bcm", 0): [1, 1, 1, 1.0], ("edm", 0): [1, 1, 1, 3.0]}
    )
    marks = {("gmm", "bcm"): "ctm"}
    board = leaderboard(frame, cells(frame), marks).set_index("precond")["rank"]
    assert (board["ctm"], board["bcm"], board["edm"]) == (1, 1, 3)
    frame["lower_is_better"] = False
    board = leaderboard(frame, cells(frame), marks).set_index("precond")["rank"]
    assert board["edm"] == 1


def test_coverage_counts_states_and_skips():
    frame = rows({("ctm", 0): [4, 3, 2, 1.0], ("ctm", 1): [4, 3, 2, 1.0]})
    info = cells(frame)
    info.loc[info["seed"] == 1, ["state", "reason", "have"]] = ["diverged", "loss at step 3", 2]
    table = coverage(info, [{"cell": "edm x gmm", "reason": "excluded"}])
    assert table.iloc[0]["done"] == 1
    assert table.iloc[0]["numbers"] == "6 of 8"
    assert "loss at step 3" in table.iloc[0]["reasons"]
    assert table.iloc[1]["states"] == "skipped"
