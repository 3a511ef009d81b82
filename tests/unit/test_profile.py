"""Speed-up at every quality, on curves whose answer is known by hand."""

import math

import pytest

from harness.report.profile import NEAR, PARTS, profile_table
from harness.report.render import pieces, render
from harness.report.speed import LAST, speed_table
from tests.unit.test_report import STEPS, cells, compared, rows


def profile(values, lower=True, **marks):
    frame = rows(values, lower=lower)
    equal = {("gmm", name): twin for name, twin in marks.items()}
    return profile_table(compared(frame, marks=equal))


def levels(table, precond="new"):
    """The common levels of a preconditioning, from easy to hard."""
    mine = table[table["precond"] == precond]
    return mine[~mine["level"].isin((LAST, NEAR))].reset_index(drop=True)


def test_a_preconditioning_twice_as_fast_is_so_at_every_level_that_both_reach():
    # halving per 1,000 images against per 500: log-linear in images, as curves are read
    base = [2.0 ** (-step / 100) for step in STEPS]
    fast = [2.0 ** (-step / 50) for step in STEPS]
    table = profile({("ctm", 0): base, ("new", 0): fast, ("ctm", 1): base, ("new", 1): fast})
    mine = levels(table)
    assert len(mine) == PARTS + 1
    assert mine["target_value"].iloc[[0, -1]].tolist() == [base[0], fast[-1]]
    assert mine["target_value"].iloc[6] == pytest.approx(math.sqrt(base[0] * fast[-1]))
    seen = mine[(mine["target_value"] < fast[0]) & (mine["target_value"] >= base[-1])]
    assert len(seen) >= 4
    assert seen["speedup"].tolist() == pytest.approx([2.0] * len(seen))
    assert (seen["bound"] == "").all()
    # further than the baseline gets: at least so much, and at the very end at least 1
    beyond = mine[mine["target_value"] < base[-1]]
    assert (beyond["bound"] == ">").all()
    assert beyond["speedup"].is_monotonic_decreasing
    assert beyond["speedup"].iloc[-1] == pytest.approx(1)
    assert set(mine["lead_then"]) == {""}
    assert set(mine["lead_to"]) == {fast[-1]}
    assert (mine["end"].iloc[0], mine["end_low"].iloc[0]) == (fast[-1], fast[-1])
    # where the baseline itself ends: what the speed table says
    last = table[(table["precond"] == "new") & (table["level"] == LAST)].iloc[0]
    assert last["speedup"] == pytest.approx(2)
    near = table[(table["precond"] == "new") & (table["level"] == NEAR)].iloc[0]
    assert near["target_value"] == pytest.approx(1.1 * base[-1])


def test_a_lead_that_ends_names_the_level_where_the_curves_cross():
    base, new = [16.0, 8.0, 4.0, 1.0], [10.0, 6.0, 4.5, 2.0]  # new is ahead down to about 4.2
    mine = levels(profile({("ctm", 0): base, ("new", 0): new}))
    row = mine.iloc[0]
    assert row["lead_then"] == "slower"
    assert 4 < row["lead_to"] < 8
    frame = rows({("ctm", 0): base, ("new", 0): new})
    at = {"frechet": [row["lead_to"], row["lead_to"] * 0.99]}
    table = speed_table(compared(frame), at)
    ahead, behind = table[(table["precond"] == "new") & (table["target"] != LAST)]["speedup"]
    assert 1 < ahead < 1.02
    assert behind < 1
    assert row["lead_from"] < 16  # at the first level both are there before anybody looks
    assert mine["bound"].iloc[0] == "?"


@pytest.mark.parametrize(
    ("new", "then"),
    [
        ([8.0, 2.5, 2.5, 2.5], "never"),  # ahead as far as it goes, and the baseline goes further
        ([8.0, 4.0, 2.0, 0.9], "unknown"),  # both end there, a third goes further
    ],
)
def test_a_lead_that_training_cuts_off_says_what_follows(new, then):
    base = [16.0, 8.0, 4.0, 1.0]
    third = [16.0, 15.0, 14.0, 0.1]
    mine = levels(profile({("ctm", 0): base, ("new", 0): new, ("third", 0): third}))
    assert mine["lead_then"].iloc[0] == then
    assert mine["lead_to"].iloc[0] == pytest.approx(new[-1], rel=0.01)
    last = mine.iloc[-1]
    assert (last["bound"], last["target_value"]) == ("?", 0.1)


def test_a_preconditioning_that_is_never_ahead_has_no_lead_and_its_bounds_stay_bounds():
    table = profile({("ctm", 0): [16.0, 8.0, 4.0, 1.0], ("new", 0): [20.0, 18.0, 12.0, 9.0]})
    mine = levels(table)
    assert mine["lead_to"].isna().all()
    never = mine[mine["target_value"] < 9]
    assert (never["bound"] == "<").all()
    assert (never["speedup"] <= 1).all()
    assert (never["censored"] == 1).all()
    base = levels(table, "ctm")
    assert (base["speedup"] == 1).all()
    assert base["images"].iloc[-1] == 8000
    assert base["images_bound"].tolist() == ["<"] + [""] * PARTS


def test_one_seed_has_no_interval():
    mine = levels(profile({("ctm", 0): [16.0, 8.0, 4.0, 1.0], ("new", 0): [12.0, 4.0, 2.0, 0.5]}))
    assert (
        mine[["speedup_low", "speedup_high", "confidence", "end_low", "end_high"]]
        .isna()
        .all(axis=None)
    )


def test_a_diverged_seed_never_gets_anywhere_and_is_never_dropped():
    frame = rows(
        {
            **{("ctm", seed): [16.0, 8.0, 4.0, 1.0] for seed in range(3)},
            **{("new", seed): [12.0, 4.0, 2.0, 0.5] for seed in range(2)},
            ("new", 2): [12.0, 4.0],
        }
    )
    info = cells(frame)
    info.loc[info["run_id"] == "new-2", "state"] = "diverged"
    mine = levels(profile_table(compared(frame, info)))
    assert (mine["seeds"] == 3).all()
    assert mine["censored"].iloc[-3] == 1
    assert mine["speedup_low"].iloc[-3] == 0
    assert mine["end"].iloc[0] == 0.5
    assert mine["end_high"].iloc[0] == math.inf
    # a baseline that diverged in most seeds ends nowhere; levels are those of its first values
    info.loc[info["precond"] == "ctm", "state"] = "diverged"
    frame = frame.drop(frame[(frame["precond"] == "ctm") & (frame["step"] > 200)].index)
    table = profile_table(compared(frame, info))
    assert levels(table)["target_value"].iloc[[0, -1]].tolist() == [16.0, 0.5]
    assert table[table["level"] == LAST]["target_value"].isna().all()
    assert "(ctm's last)" not in text(table)


def test_larger_values_are_levels_of_a_metric_where_higher_is_better():
    base, new = [0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.6, 0.7]
    values = {("ctm", 0): base, ("new", 0): new, ("ctm", 1): base, ("new", 1): new}
    mine = levels(profile(values, lower=False))
    steps = mine["target_value"].diff().dropna()
    assert steps.tolist() == pytest.approx([0.6 / PARTS] * PARTS)  # linear, from easy to hard
    half = mine.loc[(mine["target_value"] - 0.3).abs().idxmin()]
    assert half["speedup"] == pytest.approx(4000 / 1500)
    assert (mine["end"].iloc[0], mine["end_low"].iloc[0]) == (0.7, 0.7)
    assert mine["lead_to"].iloc[0] == 0.7
    table = profile(values, lower=False)
    assert table[table["level"] == NEAR]["target_value"].iloc[0] == pytest.approx(0.36)
    heads = next(line for line in text(table).splitlines() if line.startswith("precond"))
    values = [float(word) for word in heads.replace("(", " ").split() if word[0] == "0"]
    assert values == sorted(values)
    assert "higher is better" in text(table)


def test_values_that_are_not_positive_have_linear_levels():
    mine = levels(profile({("ctm", 0): [3.0, 1.0, 0.0, -1.0], ("new", 0): [2.0, 1.0, -1.0, -3.0]}))
    assert mine["target_value"].tolist() == pytest.approx([3 - k * 6 / PARTS for k in range(13)])


def test_what_counts_is_the_first_crossing():
    base = [16.0, 2.0, 9.0, 9.0]  # gets worse again: its best is what it reached
    table = profile({("ctm", 0): base, ("new", 0): [16.0, 9.0, 5.0, 2.0]})
    mine = levels(table)
    assert mine["target_value"].iloc[-1] == 2.0
    assert mine["speedup"].iloc[-1] == pytest.approx(2000 / 8000)
    near = table[(table["precond"] == "ctm") & (table["level"] == NEAR)].iloc[0]
    assert near["target_value"] == pytest.approx(2.2)


def test_nobody_better_than_the_first_value_is_one_level_and_nothing_known():
    table = profile({("ctm", 0): [1.0, 2.0, 2.0, 2.0], ("new", 0): [1.0, 3.0, 3.0, 3.0]})
    mine = levels(table)
    assert (len(mine), mine["bound"].iloc[0]) == (1, "?")
    assert "1 (best)" in text(table)
    lost = [math.inf] * 4
    table = profile({("ctm", 0): lost, ("new", 0): lost})
    assert set(table["level"]) == {LAST, NEAR}
    assert "diverged" in text(table)
    assert "no seed of 'ctm' is complete" in text(profile({("new", 0): lost}))


def test_a_second_name_of_the_baseline_is_neither_fast_nor_slow():
    table = profile({("ctm", 0): [8.0, 4, 2, 1], ("bcm", 0): [8.0, 4.1, 2, 1.1]}, bcm="ctm")
    assert (levels(table, "bcm")["speedup"] == 1).all()
    assert levels(table, "bcm")["lead_to"].isna().all()


def text(table, extension="txt"):
    return render(pieces("profile", table, "ctm", ()), extension)


def test_the_text_has_a_few_levels_the_lead_and_the_end():
    base, new = [16.0, 8.0, 4.0, 1.0], [12.0, 4.0, 2.0, 0.5]
    seeds = range(3)
    table = profile({(n, s): c for s in seeds for n, c in (("ctm", base), ("new", new))})
    shown = text(table, "md")
    assert "NFE 2; trained for 8,000 images; lower is better" in shown
    heads, _, ctm, mine = [line for line in shown.splitlines() if line.startswith("|")]
    assert [word.strip() for word in heads.split("|")[2:-1]] == [
        *("6.73 (1/4)", "2.83 (1/2)", "1.19 (3/4)", "1.1 (10 %)", "1 (ctm's last)", "0.5 (best)"),
        *("leads", "at the end"),
    ]
    assert "8,000 images" in ctm
    assert ">8,000 images" in ctm
    assert "to 0.5, the best" in mine
    assert "0.5 [0.5, 0.5]" in mine
    assert "probability 75% with 3 seeds" in shown
    assert r"\begin{table}" in text(table, "tex")
