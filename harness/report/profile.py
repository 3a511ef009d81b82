"""Speed-up at every quality: how many times fewer images than the baseline, level by level.

The speed-up to the baseline's last value (harness/report/speed.py) depends on the length of
training. Here the same ratio, images(baseline) / images(preconditioning), paired by seed, is
computed at quality levels that are the same for a whole problem, protocol and NFE:

    from   the baseline's value at its first evaluation       (median over seeds)
    to     the best value that any preconditioning reaches    (median over seeds of its best)

in `PARTS` equal steps of the metric's logarithm (of the metric itself if a cost is not positive).
Easier levels carry no information, since the baseline passes them before its first evaluation.
First crossings and bounds are defined as in the speed table, so that a curve that ends before a
level gives a bound there.

Two more levels refer to each seed's own baseline: its last value, as in the speed table, and 10 %
worse than its best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd

from harness.report.comparisons import CURVE, Comparisons
from harness.report.reach import exactly, middle
from harness.report.speed import LAST
from harness.report.statistics import Groups

#: steps between the first level and the last: there is one level more
PARTS = 12
NEAR = "within 10 % of baseline's best"
#: positions of the levels between the first (0) and the best (1), and the names of all
PLACES = np.arange(PARTS + 1) / PARTS
LEVELS = [*(str(Fraction(k, PARTS)) for k in range(PARTS + 1)), LAST, NEAR]

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


def profile_table(compared: Comparisons) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, preconditioning, level); columns: docs/tables.md."""
    levels = Levels.of(compared)
    costs = levels.cost(np.tile(PLACES, (len(compared.entries), 1)))
    base = compared.curves.costs[compared.base]
    best = base.min(axis=1, initial=math.inf)
    with np.errstate(invalid="ignore"):
        near = np.where(best == math.inf, best, best + 0.1 * np.abs(best))  # for either sign
    goals = np.column_stack([costs[compared.seeds.of], base[:, -1], near])
    columns = compared.compare(goals)
    signs = compared.signs
    columns["target_value"][:, : PARTS + 1] = signs[:, None] * costs
    there = np.column_stack([levels.exist(), *[np.ones(len(costs), bool)] * 2])

    verdicts = verdict(columns["speedup"], columns["bound"])[:, : PARTS + 1]
    verdicts[~levels.exist() | (compared.seeds.counts == 0)[:, None]] = ""
    lead = leads(verdicts, PLACES, lambda which, places: _judged(compared, levels, which, places))
    entries = compared.entries.assign(
        lead_from=signs * levels.cost(lead.start[:, None])[:, 0],
        lead_to=signs * levels.cost(lead.end[:, None])[:, 0],
        lead_then=lead.then,
        **_ends(compared),
    )
    entry, level = np.nonzero(there)
    found = {name: each[there] for name, each in columns.items()}
    table = entries.iloc[entry].reset_index(drop=True)
    return table.assign(level=np.array(LEVELS, object)[level], **found)[PROFILE_COLUMNS]


@dataclass(frozen=True)
class Levels:
    """The range of costs from the easiest level `first` to the hardest, `best` <= `first`.

    Arrays [entries], which are equal for all entries of one comparison. `first` equals `best` where
    nothing is better than the first value, or it is infinite: then there is a single level, or none
    where `best` is infinite.
    """

    first: np.ndarray
    best: np.ndarray

    @classmethod
    def of(cls, compared: Comparisons) -> Levels:
        """Levels from the baseline's first value to the best value of any preconditioning."""
        costs, of = compared.curves.costs, compared.entries["comparison"].to_numpy()
        starts = costs[np.arange(len(costs)), (costs < math.inf).argmax(axis=1)]
        best, _, _ = compared.owners.summary(costs.min(axis=1, initial=math.inf))
        first, _, _ = compared.owners.summary(starts)
        first = np.where(compared.entries["is_baseline"], first, math.nan)
        least = pd.DataFrame({"first": first, "best": best}).groupby(of).transform("min")
        first, best = least["first"].to_numpy(), least["best"].to_numpy()
        return cls(np.where((best < first) & (first < math.inf), first, best), best)

    def exist(self) -> np.ndarray:
        """Which of the levels of an entry exist, [entries, levels]."""
        return np.column_stack([*[self.first > self.best] * PARTS, self.best < math.inf])

    def at(self, which: np.ndarray) -> Levels:
        """The levels of these entries."""
        return Levels(self.first[which], self.best[which])

    def cost(self, places: np.ndarray) -> np.ndarray:
        """The costs at positions in [0, 1], [entries, positions]; exact at both ends."""
        first, best = self.first[:, None], self.best[:, None]
        with np.errstate(all="ignore"):
            a, b = (exactly(_log, each) for each in (first, best))
            costs = exactly(math.exp, a + places * (b - a))
            costs = np.where(best > 0, costs, first + places * (best - first))
        return np.select([places == 0, places == 1], [first, best], costs)


def _log(cost: float) -> float:
    return math.log(cost) if 0 < cost < math.inf else math.nan


def _judged(
    compared: Comparisons, levels: Levels, which: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """The verdicts on entries `which` at one position of each, [which]."""
    pairs = np.flatnonzero(np.isin(compared.seeds.of, which))
    new = np.searchsorted(which, compared.seeds.of[pairs])
    seeds = Groups(new, len(which))
    costs = levels.at(which).cost(places[:, None])[new]
    _, (low, high) = compared.some(pairs).speedups(costs)
    return verdict(*middle(seeds.summary(low)[0], seeds.summary(high)[0]))[:, 0]


FASTER = "faster"


def verdict(speedup: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Classify median speed-ups: `faster`, `slower` (or equal), `never` reached, `unknown`."""
    faster = ((speedup > 1) & np.isin(bound, ("", ">"))) | ((speedup == 1) & (bound == ">"))
    kinds = [faster, (bound == "<") & (speedup <= 1), bound == ""]
    return np.select(kinds, [FASTER, "never", "slower"], "unknown")


@dataclass(frozen=True)
class Leads:
    """The range of levels (positions in [0, 1]) where each entry is faster, and what follows.

    `then` is `slower`, `never` (the baseline reaches harder levels, the preconditioning does not),
    `unknown`, or empty if the lead extends to the best quality that any preconditioning reaches.
    Where there is no lead, positions are nan and `then` is empty.
    """

    start: np.ndarray
    end: np.ndarray
    then: np.ndarray


#: verdicts on entries at one position of each
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]


def leads(verdicts: np.ndarray, places: np.ndarray, judged: Judge) -> Leads:
    """The lead of every entry that extends to the hardest quality.

    `verdicts` [entries, levels] are those at `places` [levels], empty for levels that do not exist;
    `judged` gives those anywhere between, so that the ends of the leads are found by bisection, to
    1/64 of a step.
    """
    final = verdicts.shape[1] - 1
    faster = verdicts == FASTER
    last = final - faster[:, ::-1].argmax(axis=1)
    broken = ~faster & (np.arange(final + 1) < last[:, None])
    begin = np.where(broken.any(axis=1), final + 1 - broken[:, ::-1].argmax(axis=1), 0)
    start, end = (np.where(faster.any(axis=1), places[each], math.nan) for each in (begin, last))
    then = np.full(len(verdicts), "", object)
    before = np.flatnonzero(faster.any(axis=1) & (begin > 0))
    before = before[verdicts[before, begin[before] - 1] != ""]
    start[before], _ = _edges(start[before], places[begin[before] - 1], before, judged)
    after = np.flatnonzero(faster.any(axis=1) & (last < final))
    end[after], outside = _edges(end[after], places[last[after] + 1], after, judged)
    then[after] = judged(after, outside)
    return Leads(start, end, then)


def _edges(
    inside: np.ndarray, outside: np.ndarray, which: np.ndarray, judged: Judge
) -> tuple[np.ndarray, np.ndarray]:
    """Two close positions of each entry: it leads at the first one and does not at the second."""
    for _ in range(6):
        middle = (inside + outside) / 2
        leading = judged(which, middle) == FASTER
        inside = np.where(leading, middle, inside)
        outside = np.where(leading, outside, middle)
    return inside, outside


def _ends(compared: Comparisons) -> dict[str, np.ndarray]:
    """Quality at the end of training: median over seeds, as in the leaderboard, and interval."""
    costs = compared.curves.costs[:, -1]
    _, low, high = compared.owners.summary(costs)
    median = compared.owners.median(costs)
    lower = compared.signs > 0
    return {
        "end": compared.signs * median,
        "end_low": np.where(lower, low, -high),
        "end_high": np.where(lower, high, -low),
    }
