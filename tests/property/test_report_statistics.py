"""The mathematics of the tables, over random curves, seeds and numbers of seeds."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.area import area
from harness.report.leaderboard import ranks
from harness.report.profile import Levels, lead
from harness.report.reach import Curve, Known, summarise
from harness.report.statistics import (
    confidence,
    difference,
    interval,
    is_better,
    lower_median,
    trim,
)

numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.inf, -math.inf])
seeds = st.lists(numbers, min_size=2, max_size=12)
costs = st.floats(1e-3, 1e3)
IMAGES = [100, 200, 400, 800, 1600]
curve = st.lists(costs, min_size=5, max_size=5).map(lambda c: Curve(IMAGES, IMAGES, c))


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
    easy, hard = mine.reach(max(goal, other)), mine.reach(min(goal, other))
    assert easy.images.low <= hard.images.low * (1 + 1e-9)
    assert easy.images.high <= hard.images.high * (1 + 1e-9)


@given(curve, curve, costs, st.floats(0.1, 10))
def test_speed_ups_invert_and_do_not_depend_on_units(a, b, goal, scale):
    ab, ba = (x.reach(goal).images / y.reach(goal).images for x, y in ((a, b), (b, a)))
    assert 0 <= ab.low <= ab.high
    if ab.low > 0 and ab.high < math.inf:
        assert ba.low * ab.high == pytest.approx(1)
    other = [Curve([i * scale for i in c.images], c.seconds, c.costs) for c in (a, b)]
    scaled = other[0].reach(goal).images / other[1].reach(goal).images
    assert (scaled.low, scaled.high) == (pytest.approx(ab.low), pytest.approx(ab.high))


@given(st.lists(st.tuples(costs, costs, st.sampled_from(["", "<", ">", "?"])), min_size=1))
def test_summary_bounds_whatever_the_truth_is(pairs):
    """Hide true values behind bounds: median and interval of the truth are where we say."""
    truth, known = [], []
    for value, slack, mark in pairs:
        truth.append(value)
        low = 0.0 if mark in "<?" and mark else value - slack if mark == ">" else value
        high = math.inf if mark in ">?" and mark else value + slack if mark == "<" else value
        known.append(Known(max(low, 0.0), high))
    value, bound, low, high = summarise(known)
    true = lower_median(truth)
    assert {"": true == value, "<": true <= value, ">": true >= value, "?": True}[bound]
    if len(pairs) > 1:
        assert low <= interval(truth)[0]
        assert interval(truth)[1] <= high


@given(curve, curve, curve)
def test_levels_go_from_easy_to_hard_and_are_reached_ever_later(base, mine, other):
    levels = Levels.of({"base": {0: base}, "mine": {0: mine}, "other": {0: other}}, "base")
    costs = [levels.cost(part) for part in levels.parts()]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == min(min(c.costs) for c in (base, mine, other))
    if len(costs) > 1:
        assert costs[0] == base.costs[0]
    for each in (base, mine, other):
        images = [each.reach(cost).images.high for cost in costs]
        assert images == sorted(images)


@given(st.lists(st.sampled_from(["faster", "slower", "never", "unknown"]), min_size=1))
def test_a_lead_holds_from_its_start_to_its_end_and_not_beyond(verdicts):
    last = len(verdicts) - 1

    def judged(places):
        return [verdicts[round(place)] for place in places]

    found = lead({float(k): verdict for k, verdict in enumerate(verdicts)}, judged)
    leading = [k for k, verdict in enumerate(verdicts) if verdict == "faster"]
    if not leading:
        assert found is None
        return
    assert found is not None
    inside = range(math.ceil(found.start), math.floor(found.end) + 1)
    assert all(verdicts[k] == "faster" for k in inside)
    assert inside[-1] == leading[-1]
    if found.end == last:
        assert found.then == ""
    else:
        assert found.then == verdicts[leading[-1] + 1]
        assert found.end == pytest.approx(leading[-1] + 0.5, abs=1 / 60)
    assert inside[0] == 0 or verdicts[inside[0] - 1] != "faster"


@given(curve, curve, st.booleans())
def test_area_is_antisymmetric_and_signed(a, b, lower):
    signed = [
        c if lower else Curve(c.images, c.seconds, [-cost for cost in c.costs]) for c in (a, b)
    ]
    there, back = area(*signed, lower), area(*reversed(signed), lower)
    assert there == pytest.approx(-back, abs=1e-12)
    assert area(signed[0], signed[0], lower) == 0


@given(curve, st.lists(st.floats(1.01, 9), min_size=5, max_size=5), st.booleans())
def test_area_is_positive_for_the_better_curve(a, factors, lower):
    worse = [cost * factor for cost, factor in zip(a.costs, factors, strict=True)]
    b = Curve(IMAGES, IMAGES, worse)
    if lower:
        assert area(b, a) > 0
    else:
        signed = [Curve(c.images, c.seconds, [-cost for cost in c.costs]) for c in (a, b)]
        assert area(*signed, False) > 0


@given(curve, costs)
def test_area_of_a_constant_factor_is_its_log(a, factor):
    other = Curve(a.images, a.seconds, [cost / factor for cost in a.costs])
    assert area(a, other) == pytest.approx(math.log(factor), abs=1e-9)
