"""Speed-up at every quality: how many times fewer images than the baseline, level by level.

The speed-up to the baseline's last value (harness/report/speed.py) depends on the length of
training. Here the same ratio, images(baseline) / images(strategy), paired by seed, is computed at
quality levels that are the same for all strategies of one problem, protocol and NFE:

    from   the baseline's value at its first evaluation       (median over seeds)
    to     the best value that any strategy reaches           (median over seeds of its best)

in `PARTS` equal steps of the metric's logarithm (of the metric itself if a cost is not positive).
Easier levels carry no information, since the baseline passes them before its first evaluation.
First crossings and bounds are defined as in the speed table, so that a curve that ends before a
level gives a bound there.

Two more levels refer to each seed's own baseline: its last value, as in the speed table, and 10 %
worse than its best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from harness.report.leaderboard import spread
from harness.report.reach import Curve, Stack, middle, ratios
from harness.report.speed import CURVE, LAST, Comparison, compared
from harness.report.statistics import interval, lower_median

#: steps between the first level and the last: there is one level more
PARTS = 12
NEAR = "within 10 % of baseline's best"

PROFILE_COLUMNS = [
    *CURVE,
    "level",
    "target_value",
    "precond",
    "same_as",
    "seeds",
    "seeds_planned",
    "censored",
    "images",
    "images_low",
    "images_high",
    "images_bound",
    "speedup",
    "speedup_low",
    "speedup_high",
    "bound",
    "confidence",
    "lead_from",
    "lead_to",
    "lead_then",
    "end",
    "end_low",
    "end_high",
    "images_last",
    "lower_is_better",
]


def profile_table(compared: list[Comparison]) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, strategy, level); columns: docs/tables.md."""
    records = []
    for found in compared:
        levels = Levels.of(found.curves, found.baseline)
        for precond in found.planned:
            shared = found.of(precond) | {
                "images_last": found.images[1],
                "lower_is_better": found.lower_is_better,
                **_end(found.curves.get(precond, {}), found.lower_is_better),
            }
            at_levels = _levels(found.pairs(precond), levels, found.sign)
            records += [shared | record for record in at_levels]
    return pd.DataFrame(records, columns=PROFILE_COLUMNS)


@dataclass(frozen=True)
class Levels:
    """The range of costs from the easiest level `first` to the hardest, `best` <= `first`."""

    first: float
    best: float

    @classmethod
    def of(cls, curves: Mapping[str, Mapping[int, Curve]], baseline: str) -> Levels:
        """Levels from the baseline's first value to the best value of any strategy.

        There is a single level if no strategy is better than the first value, or it is infinite.
        """
        bests = [
            lower_median([min(curve.costs) for curve in mine.values()]) for mine in curves.values()
        ]
        starts = [
            next((cost for cost in curve.costs if cost < math.inf), math.inf)
            for curve in curves[baseline].values()
        ]
        best, first = min(bests), lower_median(starts)
        return cls(first if best < first < math.inf else best, best)

    def parts(self) -> list[Fraction]:
        """Positions of the levels between the first (0) and the best (1)."""
        if self.best == math.inf:
            return []
        return [Fraction(k, PARTS) for k in range(PARTS + 1)] if self.first > self.best else [_END]

    def cost(self, part: float | Fraction) -> float:
        """The cost at position `part` in [0, 1]; exact at both ends."""
        if part in (0, 1):
            return self.best if part == 1 else self.first
        if self.best > 0:
            return math.exp(_between(math.log(self.first), math.log(self.best), float(part)))
        return _between(self.first, self.best, float(part))


_END = Fraction(1)


def _levels(
    pairs: Mapping[int, tuple[Curve, Curve]], levels: Levels, sign: float
) -> Iterator[dict[str, Any]]:
    """A record for every level; the columns of the lead are the same in all of them."""
    race = Race(pairs)

    def judged(parts: list[float]) -> list[str]:
        return [verdict(*each) for each in race.middle([levels.cost(part) for part in parts])]

    parts = levels.parts()
    costs = [levels.cost(part) for part in parts]
    goals = [[cost] * len(pairs) for cost in costs]
    bases = [base for base, _ in pairs.values()]
    goals += [[base.costs[-1] for base in bases], [_near_best(base) for base in bases]]
    *records, last, near = race.compare(goals, sign)
    found = {
        part: record | {"target_value": sign * cost}
        for part, record, cost in zip(parts, records, costs, strict=True)
    }
    verdicts = {
        float(part): verdict(record["speedup"], record["bound"])
        for part, record in found.items()
        if record["seeds"]
    }
    stretch = lead(verdicts, judged)
    told = {
        "lead_from": sign * levels.cost(stretch.start) if stretch else math.nan,
        "lead_to": sign * levels.cost(stretch.end) if stretch else math.nan,
        "lead_then": stretch.then if stretch else "",
    }
    for part, record in found.items():
        yield {"level": str(part)} | record | told
    yield {"level": LAST} | last | told
    yield {"level": NEAR} | near | told


class Race:
    """Curves of baseline and strategy for every seed, compared at any costs; see speed.compare."""

    def __init__(self, pairs: Mapping[int, tuple[Curve, Curve]]) -> None:
        self.seeds = len(pairs)
        self.same = np.array([base is mine for base, mine in pairs.values()])
        if pairs:
            self.base = Stack([base for base, _ in pairs.values()])
            self.mine = Stack([mine for _, mine in pairs.values()])

    def middle(self, costs: list[float]) -> list[tuple[float, str]]:
        """The median speed-up at each of these costs, and its bound mark."""
        *_, low, high = self._at(np.array(costs)[:, None].repeat(self.seeds, 1))
        return list(map(middle, low, high))

    def compare(self, goals: list[list[float]], sign: float) -> list[dict[str, Any]]:
        """For every list of goals (one per seed): images to reach them, and speed-up in images."""
        if not self.seeds:
            return [{"seeds": 0, "censored": 0, "bound": "", "images_bound": ""} for _ in goals]
        ends = self._at(np.array(goals, dtype=float))
        return [
            compared(mine, sign, (least, most), (low, high))
            for mine, least, most, low, high in zip(goals, *ends, strict=True)
        ]

    def _at(self, goals: np.ndarray) -> tuple[list[Any], ...]:
        """Lower and upper ends of the strategy's images and of the speed-up, [..., seeds]."""
        with np.errstate(all="ignore"):
            base, mine = self.base.reach(goals), self.mine.reach(goals)
            low = np.where(self.same, 1.0, ratios(base[0], mine[1]))
            high = np.where(self.same, 1.0, ratios(base[1], mine[0]))
        return tuple(each.tolist() for each in (*mine, low, high))


def _near_best(base: Curve) -> float:
    """The cost 10 % worse than the best of a curve, for either sign."""
    best = min(base.costs)
    return best if best == math.inf else best + 0.1 * abs(best)


@dataclass(frozen=True)
class Lead:
    """The range of levels (positions in [0, 1]) where a strategy is faster, and what follows.

    `then` is `slower`, `never` (the baseline reaches harder levels, the strategy does not),
    `unknown`, or empty if the lead extends to the best quality that any strategy reaches.
    """

    start: float
    end: float
    then: str


FASTER = "faster"


def verdict(speedup: float, bound: str) -> str:
    """Classify a median speed-up: `faster`, `slower` (or equal), `never` reached, `unknown`."""
    if (speedup > 1 and bound in ("", ">")) or (speedup == 1 and bound == ">"):
        return FASTER
    if bound == "<" and speedup <= 1:
        return "never"
    return "slower" if bound == "" else "unknown"


def lead(verdicts: Mapping[float, str], judged: Callable[[list[float]], list[str]]) -> Lead | None:
    """The lead that extends to the hardest quality; None if the strategy leads at no level.

    `verdicts` are those at the levels, from the easiest to the hardest; `judged` gives those at any
    positions between, so that the ends of the lead are found by bisection, to 1/64 of a step.
    """
    parts = list(verdicts)
    leading = [k for k, part in enumerate(parts) if verdicts[part] == FASTER]
    if not leading:
        return None
    last = start = leading[-1]
    while start and verdicts[parts[start - 1]] == FASTER:
        start -= 1
    begins = parts[start] if start == 0 else _edge(parts[start], parts[start - 1], judged)[0]
    if last == len(parts) - 1:
        return Lead(begins, parts[last], "")
    inside, outside = _edge(parts[last], parts[last + 1], judged)
    return Lead(begins, inside, judged([outside])[0])


def _edge(
    inside: float, outside: float, judged: Callable[[list[float]], list[str]]
) -> tuple[float, float]:
    """Two close positions: the strategy leads at the first one and does not at the second.

    All positions that bisection can visit are judged at once, which is faster than one by one.
    """
    places = [inside, outside]
    for _ in range(6):
        between = [(a + b) / 2 for a, b in itertools.pairwise(places)]
        places = [place for two in zip(places, between, strict=False) for place in two] + [outside]
    leads = [True, *(each == FASTER for each in judged(places[1:-1])), False]
    low, high = 0, len(places) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if leads[middle] else (low, middle)
    return places[low], places[high]


def _end(curves: Mapping[int, Curve], lower: bool) -> dict[str, float]:
    """Quality at the end of training: median over seeds, as in the leaderboard, and interval."""
    costs = [curve.costs[-1] for curve in curves.values()]
    low, high = interval(costs)
    return {
        "end": spread(costs, lower)["median"],
        "end_low": low if lower else -high,
        "end_high": high if lower else -low,
    }


def _between(a: float, b: float, part: float) -> float:
    return a + part * (b - a)
