"""Training speed: how many images until a strategy is as good as the baseline ends up?

For every seed the target is the value the *baseline of that seed* ends with (or a given number).
images(strategy) is where its curve first reaches the target, log-linear between evaluations, and
the speed-up of that seed is images(baseline) / images(strategy).

What is not known stays unknown. A curve that never reaches its target takes more images than its
last budget; one that is there at its first evaluation takes at most that budget. Images are
therefore intervals, [x, x] where the crossing was seen, and so are their ratios; median and
bootstrap interval (harness/report/statistics.py) are taken of all lower ends and of all upper
ends. No seed is dropped, and nothing is made up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL, settled
from harness.report.statistics import confidence, interval, lower_median

CURVE = [*PROBLEM, *PROTOCOL, "nfe"]
LAST = "baseline's last"


class Known(NamedTuple):
    """What is known of a number that is not negative: at least `low`, at most `high`."""

    low: float
    high: float

    def __truediv__(self, other: Known) -> Known:
        """What is known of the ratio; nothing over nothing is 1."""
        return Known(_divide(self.low, other.high), _divide(self.high, other.low))

    def plus(self, more: float) -> Known:
        """What is known of the sum with a number."""
        return Known(self.low + more, self.high + more)


class Reach(NamedTuple):
    """Where a curve reaches its target, in images and in training seconds."""

    images: Known
    seconds: Known

    @property
    def censored(self) -> bool:
        """Whether it never did."""
        return self.images.high == math.inf


@dataclass(frozen=True)
class Curve:
    """One cell's quality against training images: costs (smaller is better), images increasing."""

    images: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def reach(self, goal: float) -> Reach:
        """First crossing of a cost, log-linear between evaluations."""
        k = self._first(goal)
        if k is None:
            return Reach(_at_least(self.images[-1]), _at_least(self.seconds[-1]))
        if k == 0:
            return Reach(Known(0.0, self.images[0]), Known(0.0, self.seconds[0]))
        part = _fraction(self.costs[k - 1], self.costs[k], goal)
        return Reach(_at(self.images, k, part), _at(self.seconds, k, part))

    def _first(self, goal: float) -> int | None:
        """Number of the first evaluation that is as good as `goal`, which no run is if infinite."""
        if goal < math.inf:
            for k, cost in enumerate(self.costs):
                if cost <= goal:
                    return k
        return None


def summarise(known: Sequence[Known]) -> tuple[float, str, float, float]:
    """Lower median of what is known, how to read it, and the interval of the median.

    The k-th smallest of the true numbers lies between the k-th smallest lower and the k-th smallest
    upper end, whatever the true numbers are. The mark is empty where both medians agree, `>` where
    the value is a lower bound, `<` an upper one, `?` where nothing is known (the value is nan).
    """
    lows, highs = [k.low for k in known], [k.high for k in known]
    low, high = lower_median(lows), lower_median(highs)
    ends = interval(lows)[0], interval(highs)[1]
    if low == high:
        return low, "", *ends
    if low > 0:
        return low, ">", *ends
    return (high, "<", *ends) if high < math.inf else (math.nan, "?", *ends)


SPEED_COLUMNS = [
    *CURVE,
    "target",
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
    "seconds",
    "speedup_seconds",
    "calibration_seconds",
    "calibration_evaluations",
    "speedup_seconds_with_calibration",
    "images_last",
]


def speed_table(
    rows: pd.DataFrame,
    cells: pd.DataFrame,
    baseline: str,
    targets: dict[str, list[float]],
    marks: dict[tuple[str, str], str],
) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, target, strategy); columns: docs/tables.md.

    Seeds are used only where both the baseline and the strategy were evaluated at every budget, or
    diverged; a strategy without such a seed has a row that says 0 seeds.
    """
    records = []
    rows = settled(rows, cells)
    known = strategies(cells)
    for key, group in rows.groupby(CURVE, sort=True):
        problem = dict(zip(CURVE, key, strict=True))
        planned = known[tuple(str(problem[axis]) for axis in PROBLEM)]
        curves = whole_curves(group)
        if baseline not in curves:
            continue
        sign = 1.0 if group["lower_is_better"].iloc[0] else -1.0
        twins = twins_of(marks, str(problem["teacher"]))
        for goal in (None, *targets.get(str(problem["metric"]), [])):
            for precond, mine in planned.items():
                theirs = paired(curves, baseline, precond, twins)
                pairs = [
                    pair(seed, *both, both[0].costs[-1] if goal is None else sign * goal)
                    for seed, both in theirs.items()
                ]
                records.append(
                    problem
                    | {
                        "target": LAST if goal is None else str(goal),
                        "precond": precond,
                        "same_as": twins.get(precond, ""),
                        "seeds_planned": len(mine.hardware),
                        "calibration_seconds": mine.calibration_seconds,
                        "calibration_evaluations": mine.calibration_evaluations,
                        "images_last": group["images"].max(),
                    }
                    | compare(pairs, sign)
                    | _clock(pairs, mine, planned[baseline])
                )
    return pd.DataFrame(records, columns=SPEED_COLUMNS)


def whole_curves(group: pd.DataFrame) -> dict[str, dict[int, Curve]]:
    """precond -> seed -> curve, of the cells with a row at every budget that any cell has.

    `group` holds the rows of one problem, protocol and NFE, with the column `cost` of `settled`.
    """
    curves: dict[str, dict[int, Curve]] = defaultdict(lambda: defaultdict(Curve))
    columns = ["precond", "seed", "images", "seconds", "cost"]
    for precond, seed, images, seconds, cost in group.sort_values("step")[columns].itertuples(
        index=False
    ):
        curve = curves[precond][seed]
        curve.images.append(images)
        curve.seconds.append(seconds)
        curve.costs.append(cost)
    budgets = group["step"].nunique()
    whole = {
        precond: {seed: curve for seed, curve in seeds.items() if len(curve.costs) == budgets}
        for precond, seeds in curves.items()
    }
    return {precond: seeds for precond, seeds in whole.items() if seeds}


@dataclass(frozen=True)
class Strategy:
    """What the cells of one strategy and problem cost beside training, and where they ran."""

    hardware: dict[int, str]
    calibration_seconds: float
    calibration_evaluations: float


def strategies(cells: pd.DataFrame) -> dict[tuple[str, ...], dict[str, Strategy]]:
    """problem -> precond -> its cells, in the grid's order; `hardware` has every planned seed."""
    found: dict[tuple[str, ...], dict[str, Strategy]] = defaultdict(dict)
    for key, group in cells.groupby([*PROBLEM, "precond"], sort=False):
        *problem, precond = (str(name) for name in key)
        found[tuple(problem)][precond] = Strategy(
            dict(zip(group["seed"], group["hardware"], strict=True)),
            float(group["calibration_seconds"].median()),
            float(group["calibration_evaluations"].median()),
        )
    return found


class Pair(NamedTuple):
    """Baseline and strategy of one seed, and the cost both are to reach."""

    seed: int
    base: Reach
    mine: Reach
    speedup: Known
    goal: float


def twins_of(marks: dict[tuple[str, str], str], teacher: str) -> dict[str, str]:
    """strategy -> an earlier one with the same coefficients, for one teacher."""
    return {precond: twin for (name, precond), twin in marks.items() if name == teacher}


def paired(
    curves: dict[str, dict[int, Curve]], baseline: str, precond: str, twins: dict[str, str]
) -> dict[int, tuple[Curve, Curve]]:
    """seed -> curves of the baseline and of the strategy, in the order of the seeds.

    A strategy that is the baseline's function is compared with the baseline's own curve: their
    runs differ by rounding only, and rounding is neither fast nor slow.
    """
    bases, mine = curves[baseline], curves.get(precond, {})
    seeds = sorted(bases.keys() & mine.keys())
    same = twins.get(precond, precond) == twins.get(baseline, baseline)
    return {seed: (bases[seed], bases[seed] if same else mine[seed]) for seed in seeds}


def pair(seed: int, base: Curve, mine: Curve, goal: float) -> Pair:
    """Where both reach the cost `goal`, and their ratio: 1 for a curve and itself."""
    there = base.reach(goal)
    if base is mine:
        return Pair(seed, there, there, Known(1.0, 1.0), goal)
    reached = mine.reach(goal)
    return Pair(seed, there, reached, there.images / reached.images, goal)


def compare(pairs: list[Pair], sign: float) -> dict[str, Any]:
    """Images to the target and the speed-up in images, over seeds."""
    if not pairs:
        return {"seeds": 0, "censored": 0, "bound": "", "images_bound": ""}
    speedup, bound, low, high = summarise([p.speedup for p in pairs])
    images, images_bound, images_low, images_high = summarise([p.mine.images for p in pairs])
    goal = lower_median([p.goal for p in pairs])
    return {
        "target_value": sign * goal if math.isfinite(goal) else math.nan,
        "seeds": len(pairs),
        "censored": sum(p.mine.censored for p in pairs),
        "images": images,
        "images_low": images_low,
        "images_high": images_high,
        "images_bound": images_bound,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "bound": bound,
        "confidence": confidence(len(pairs)),
    }


def _clock(pairs: list[Pair], mine: Strategy, base: Strategy) -> dict[str, float]:
    """The same on the train-only clock, where both runs of every pair had one known hardware."""
    if not pairs:
        return {}
    record = {"seconds": summarise([p.mine.seconds for p in pairs])[0]}
    for p in pairs:
        if not mine.hardware[p.seed] or mine.hardware[p.seed] != base.hardware[p.seed]:
            return record
    cost = mine.calibration_seconds
    record["speedup_seconds"] = summarise([_seconds(p, 0.0) for p in pairs])[0]
    record["speedup_seconds_with_calibration"] = summarise([_seconds(p, cost) for p in pairs])[0]
    return record


def _seconds(pair: Pair, calibration: float) -> Known:
    """Ratio of seconds of one pair, the strategy's calibration added to its training."""
    if pair.base is pair.mine and not calibration:
        return Known(1.0, 1.0)
    return pair.base.seconds / pair.mine.seconds.plus(calibration)


def _at(clock: list[float], k: int, part: float) -> Known:
    at = clock[k - 1] + part * (clock[k] - clock[k - 1])
    return Known(at, at)


def _at_least(last: float) -> Known:
    return Known(0.0 if math.isnan(last) else last, math.inf)


def _divide(a: float, b: float) -> float:
    if b == math.inf:
        return 0.0
    return a / b if b > 0 else 1.0 if a == 0 else math.inf


def _fraction(before: float, after: float, goal: float) -> float:
    """How far between two evaluations the goal lies: log-linear, linear where a value is <= 0."""
    if before == math.inf:
        return 1.0
    if min(before, after, goal) > 0:
        before, after, goal = math.log(before), math.log(after), math.log(goal)
    return (before - goal) / (before - after) if before != after else 1.0
