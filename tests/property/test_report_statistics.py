"""The mathematics of the tables, over random curves, seeds and numbers of seeds."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.area import areas
from harness.report.comparisons import comparisons
from harness.report.leaderboard import ranks
from harness.report.profile import FASTER, PLACES, Levels, leads
from harness.report.reach import Curves, middle, ratios
from harness.report.statistics import (
    Groups,
    confidence,
    difference,
    is_better,
    trim,
)
from tests.unit.test_report import cells
from tests.unit.test_report import rows as measured

numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.inf, -math.inf])
seeds = st.lists(numbers, min_size=2, max_size=12)
costs = st.floats(1e-3, 1e3)
IMAGES = [100, 200, 400, 800, 1600]
curve = st.lists(costs, min_size=5, max_size=5)


def summary(values):
    """Lower median of one group of values, and both ends of its interval."""
    found = Groups(np.zeros(len(values), int), 1).summary(np.array(values, float))
    return tuple(each.item() for each in found)


def lower_median(values):
    return summary(values)[0]


def interval(values):
    return summary(values)[1:]


def reach(costs, goals, scale=1.0):
    """Lower and upper ends of the images of one curve up to each of the goals."""
    images = scale * np.array([IMAGES], float)
    low, high = Curves(np.array([costs]), images, images).reach(np.array([goals]))
    return low[0], high[0]


def area(base, mine, lower=True):
    images = np.array([IMAGES], float)
    curves = (Curves(np.array([costs]), images, images) for costs in (base, mine))
    return areas(*curves, np.array([1.0 if lower else -1.0])).item()


@pytest.mark.parametrize("n", [2, 3, 5, 7, 8, 11, 15])
def test_the_interval_is_the_limit_of_resampling(n):
    """Against the textbook: resample seeds, take the (lower, upper) median, cut the tails."""
    values = np.sort(np.random.default_rng(n).standard_normal(n))
    picks = np.random.default_rng(0).integers(0, n, (100_000, n))
    resampled = np.sort(values[picks], axis=1)
    low, high = interval(values.tolist())
    for found, ordered, q in (
        (low, resampled[:, (n - 1) // 2], 0.025),
        (high, resampled[:, n // 2], 0.975),
    ):
        # a quantile of a discrete distribution: the neighbours are what sampling noise may reach
        near = np.quantile(ordered, [q - 0.003, q + 0.003], method="inverted_cdf")
        assert near[0] <= found <= near[1]


@pytest.mark.parametrize("n", [2, 3, 5, 6, 9, 12])
def test_confidence_is_the_share_of_intervals_that_hold_the_median(n):
    drawn = np.sort(np.random.default_rng(1).standard_cauchy((40_000, n)), axis=1)
    k = trim(n)
    held = ((drawn[:, k] <= 0) & (drawn[:, n - 1 - k] >= 0)).mean()
    assert held == pytest.approx(confidence(n), abs=0.01)


def test_confidence_of_few_seeds_is_what_the_documentation_says():
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    table = re.findall(r"^\| (\d+) \| (\d) \| ([\d.]+) % \|$", text, re.MULTILINE)
    assert len(table) == 7
    for n, cut, percent in table:
        assert trim(int(n)) == int(cut)
        assert 100 * confidence(int(n)) == pytest.approx(float(percent), abs=0.05)


def test_one_seed_has_neither():
    assert all(math.isnan(value) for value in (*interval([3.0]), confidence(1)))


@given(seeds, st.randoms())
def test_interval_holds_the_median_and_forgets_the_order(values, random):
    low, high = interval(values)
    assert low <= lower_median(values) <= high
    shuffled = values[:]
    random.shuffle(shuffled)
    assert interval(shuffled) == (low, high)
    assert lower_median(shuffled) == lower_median(values)


@given(seeds)
def test_interval_follows_a_change_of_sign_and_of_scale(values):
    low, high = interval(values)
    assert interval([-value for value in values]) == (-high, -low)
    assert interval([math.atan(value) for value in values]) == (math.atan(low), math.atan(high))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9))
def test_better_is_never_mutual_and_monotone(pairs):
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    assert not is_better(mine, mine)
    assert not (is_better(mine, theirs) and is_better(theirs, mine))
    if is_better(mine, theirs):
        assert is_better([a - 1 for a in mine], theirs)
        differences = [difference(a, b) for a, b in pairs]
        assert lower_median(differences) < 0
        assert len(pairs) == 1 or interval(differences)[1] < 0


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(costs, min_size=3, max_size=3), min_size=1)
)
def test_ranks_follow_dominance(table):
    costs_of = {name: dict(enumerate(values)) for name, values in table.items()}
    found = ranks(costs_of, {})
    assert min(found.values()) == 1
    for a, b in ((a, b) for a in table for b in table):
        if is_better(table[a], table[b]):
            assert found[a] < found[b]
    scaled = {name: {s: 7 * v for s, v in mine.items()} for name, mine in costs_of.items()}
    assert ranks(scaled, {}) == found


@given(curve, costs, costs)
def test_an_easier_target_is_reached_no_later(mine, goal, other):
    for easy, hard in reach(mine, [max(goal, other), min(goal, other)]):
        assert easy <= hard * (1 + 1e-9)


@given(curve, curve, costs, st.floats(0.1, 10))
def test_speed_ups_invert_and_do_not_depend_on_units(a, b, goal, scale):
    there, back = reach(a, [goal]), reach(b, [goal])
    low, high = (end.item() for end in ratios(there, back))
    assert 0 <= low <= high
    if low > 0 and high < math.inf:
        assert ratios(back, there)[0].item() * high == pytest.approx(1)
    scaled = ratios(reach(a, [goal], scale), reach(b, [goal], scale))
    assert [end.item() for end in scaled] == [pytest.approx(low), pytest.approx(high)]


@given(st.lists(st.tuples(costs, costs, st.sampled_from(["", "<", ">", "?"])), min_size=1))
def test_summary_bounds_whatever_the_truth_is(pairs):
    """Hide true values behind bounds: median and interval of the truth are where we say."""
    truth, lows, highs = [], [], []
    for value, slack, mark in pairs:
        truth.append(value)
        low = 0.0 if mark in "<?" and mark else value - slack if mark == ">" else value
        lows.append(max(low, 0.0))
        highs.append(math.inf if mark in ">?" and mark else value + slack if mark == "<" else value)
    value, bound = middle(np.array(lower_median(lows)), np.array(lower_median(highs)))
    true = lower_median(truth)
    assert {"": true == value, "<": true <= value, ">": true >= value, "?": True}[bound.item()]
    if len(pairs) > 1:
        assert interval(lows)[0] <= interval(truth)[0]
        assert interval(truth)[1] <= interval(highs)[1]


@given(
    st.lists(st.lists(numbers, max_size=9), min_size=1, max_size=9),
)
def test_groups_are_summarised_as_each_alone(groups):
    values = np.array([value for group in groups for value in group])
    together = Groups(np.repeat(np.arange(len(groups)), list(map(len, groups))), len(groups))
    for group, median, low, high in zip(groups, *together.summary(values), strict=True):
        ordered, k = sorted(group), trim(len(group)) if group else 0
        expected = [ordered[(len(group) - 1) // 2]] if group else [math.nan]
        expected += [ordered[k], ordered[-1 - k]] if len(group) > 1 else [math.nan] * 2
        np.testing.assert_array_equal([median, low, high], expected)


@given(curve, curve, curve)
def test_levels_go_from_easy_to_hard_and_are_reached_ever_later(base, mine, other):
    curves = (base[:4], mine[:4], other[:4])  # as many as there are steps in `measured`
    rows = measured({(name, 0): costs for name, costs in zip("abc", curves, strict=True)})
    levels = Levels.of(comparisons(rows, cells(rows), "a", {})).at(np.array([0]))
    there = levels.exist()[0]
    costs = levels.cost(PLACES[None])[0][there].tolist()
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == min(map(min, curves))
    if len(costs) > 1:
        assert costs[0] == curves[0][0]
    for each in curves:
        images = reach([*each, each[-1]], costs)[1].tolist()
        assert images == sorted(images)


@given(
    st.lists(
        st.lists(st.sampled_from([FASTER, "slower", "never", "unknown"]), min_size=4, max_size=4),
        min_size=1,
    )
)
def test_a_lead_holds_from_its_start_to_its_end_and_not_beyond(verdicts):
    every, last = np.array(verdicts), 3

    def judged(which, places):
        return every[which, np.round(places).astype(int)]

    found = leads(every, np.arange(4.0), judged)
    for mine, start, end, then in zip(verdicts, found.start, found.end, found.then, strict=True):
        leading = [k for k, verdict in enumerate(mine) if verdict == FASTER]
        if not leading:
            assert math.isnan(start)
            assert math.isnan(end)
            assert then == ""
            continue
        inside = range(math.ceil(start), math.floor(end) + 1)
        assert all(mine[k] == FASTER for k in inside)
        assert inside[-1] == leading[-1]
        if end == last:
            assert then == ""
        else:
            assert then == mine[leading[-1] + 1]
            assert end == pytest.approx(leading[-1] + 0.5, abs=1 / 60)
        assert inside[0] == 0 or mine[inside[0] - 1] != FASTER


@given(curve, curve, st.booleans())
def test_area_is_antisymmetric_and_signed(a, b, lower):
    signed = [c if lower else [-cost for cost in c] for c in (a, b)]
    there, back = area(*signed, lower), area(*reversed(signed), lower)
    assert there == pytest.approx(-back, abs=1e-12)
    assert area(signed[0], signed[0], lower) == 0


@given(curve, st.lists(st.floats(1.01, 9), min_size=5, max_size=5), st.booleans())
def test_area_is_positive_for_the_better_curve(a, factors, lower):
    worse = [cost * factor for cost, factor in zip(a, factors, strict=True)]
    b = worse
    if lower:
        assert area(b, a) > 0
    else:
        signed = [[-cost for cost in c] for c in (a, b)]
        assert area(*signed, False) > 0


@given(curve, costs)
def test_area_of_a_constant_factor_is_its_log(a, factor):
    other = [cost / factor for cost in a]
    assert area(a, other) == pytest.approx(math.log(factor), abs=1e-9)
