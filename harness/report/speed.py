"""Training speed: the number of images that a strategy needs for the baseline's final quality.

For every seed the target is the last value of the *baseline of that seed* (or a given number).
images(strategy) is where its curve first reaches the target, log-linear between evaluations, and
the speed-up of that seed is images(baseline) / images(strategy).

Curves that never reach the target, or have reached it at the first evaluation, give bounds
(harness/report/reach.py). No seed is dropped.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL, settled
from harness.report.reach import Curve, Known, Reach, summarise, summary
from harness.report.statistics import confidence, lower_median

CURVE = [*PROBLEM, *PROTOCOL, "nfe"]
LAST = "baseline's last"


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


def speed_table(compared: list[Comparison], targets: dict[str, list[float]]) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, target, strategy); columns: docs/tables.md.

    Only seeds are used for which baseline and strategy were evaluated at every budget, or diverged;
    a strategy without such a seed has a row with 0 seeds.
    """
    records = []
    for found in compared:
        for goal in (None, *targets.get(str(found.named["metric"]), [])):
            for precond, mine in found.planned.items():
                pairs = [
                    pair(seed, *both, both[0].costs[-1] if goal is None else found.sign * goal)
                    for seed, both in found.pairs(precond).items()
                ]
                records.append(
                    found.of(precond)
                    | {
                        "target": LAST if goal is None else str(goal),
                        "calibration_seconds": mine.calibration_seconds,
                        "calibration_evaluations": mine.calibration_evaluations,
                        "images_last": found.images[1],
                    }
                    | compare(pairs, found.sign)
                    | _clock(pairs, mine, found.planned[found.baseline])
                )
    return pd.DataFrame(records, columns=SPEED_COLUMNS)


@dataclass(frozen=True)
class Comparison:
    """All curves of one problem, protocol and NFE for which the baseline has a complete seed.

    `named`: values of the columns `CURVE`; `planned`: the grid's strategies in order; `curves`: see
    `whole_curves`; `twins`: strategies that equal an earlier one; `images`: first and last budget.
    """

    baseline: str
    named: dict[str, Any]
    planned: dict[str, Strategy]
    curves: dict[str, dict[int, Curve]]
    twins: dict[str, str]
    lower_is_better: bool
    images: tuple[int, int]

    @property
    def sign(self) -> float:
        """Factor from a cost to the metric: 1, or -1 if larger values are better."""
        return 1.0 if self.lower_is_better else -1.0

    def of(self, precond: str) -> dict[str, Any]:
        """The columns of a strategy that are common to all tables."""
        return self.named | {
            "precond": precond,
            "same_as": self.twins.get(precond, ""),
            "seeds_planned": len(self.planned[precond].hardware),
        }

    def pairs(self, precond: str) -> dict[int, tuple[Curve, Curve]]:
        """seed -> curves of the baseline and of the strategy, in the order of the seeds.

        A strategy with the same coefficients as the baseline is given the baseline's own curve,
        since their runs differ by rounding only.
        """
        bases, mine = self.curves[self.baseline], self.curves.get(precond, {})
        seeds = sorted(bases.keys() & mine.keys())
        names = (self.twins.get(name, name) for name in (precond, self.baseline))
        same = len(set(names)) == 1
        return {seed: (bases[seed], bases[seed] if same else mine[seed]) for seed in seeds}


def comparisons(
    rows: pd.DataFrame, cells: pd.DataFrame, baseline: str, marks: dict[tuple[str, str], str]
) -> list[Comparison]:
    """The comparisons from which speed, profile and area tables are computed, in row order."""
    found = []
    rows = settled(rows, cells)
    known = strategies(cells)
    for key, group in rows.groupby(CURVE, sort=True):
        named = dict(zip(CURVE, key, strict=True))
        curves = whole_curves(group)
        if baseline in curves:
            found.append(
                Comparison(
                    baseline,
                    named,
                    known[tuple(str(named[axis]) for axis in PROBLEM)],
                    curves,
                    twins_of(marks, str(named["teacher"])),
                    bool(group["lower_is_better"].iloc[0]),
                    (group["images"].min(), group["images"].max()),
                )
            )
    return found


def whole_curves(group: pd.DataFrame) -> dict[str, dict[int, Curve]]:
    """precond -> seed -> curve, for cells with a row at every budget that occurs in `group`.

    `group`: rows of one problem, protocol and NFE, with the column `cost` of `settled`.
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
    """Calibration cost of one strategy and problem, and the hardware of its cells by seed."""

    hardware: dict[int, str]
    calibration_seconds: float
    calibration_evaluations: float


def strategies(cells: pd.DataFrame) -> dict[tuple[str, ...], dict[str, Strategy]]:
    """problem -> precond -> `Strategy`, in the grid's order; `hardware` has every planned seed."""
    found: dict[tuple[str, ...], dict[str, Strategy]] = defaultdict(dict)
    for key, group in cells.groupby([*PROBLEM, "precond"], sort=False):
        *problem, precond = (str(name) for name in key)
        found[tuple(problem)][precond] = Strategy(
            dict(zip(group["seed"], group["hardware"], strict=True)),
            float(group["calibration_seconds"].median()),
            float(group["calibration_evaluations"].median()),
        )
    return found


#: lower and upper ends of a censored number, one for every seed
Ends = tuple[list[float], list[float]]


class Pair(NamedTuple):
    """Crossings of baseline and strategy for one seed, their ratio, and the target cost."""

    seed: int
    base: Reach
    mine: Reach
    speedup: Known
    goal: float


def twins_of(marks: dict[tuple[str, str], str], teacher: str) -> dict[str, str]:
    """strategy -> the earlier one with the same coefficients, for one teacher."""
    return {precond: twin for (name, precond), twin in marks.items() if name == teacher}


def pair(seed: int, base: Curve, mine: Curve, goal: float) -> Pair:
    """Crossings of the cost `goal` by both curves, and their ratio; 1 for identical curves."""
    there = base.reach(goal)
    if base is mine:
        return Pair(seed, there, there, Known(1.0, 1.0), goal)
    reached = mine.reach(goal)
    return Pair(seed, there, reached, there.images / reached.images, goal)


def compare(pairs: list[Pair], sign: float) -> dict[str, Any]:
    """Images to the target and the speed-up in images, over seeds."""
    if not pairs:
        return {"seeds": 0, "censored": 0, "bound": "", "images_bound": ""}
    images, speedups = [p.mine.images for p in pairs], [p.speedup for p in pairs]
    ends = ([k.low for k in images], [k.high for k in images])
    return compared(
        [p.goal for p in pairs],
        sign,
        ends,
        ([k.low for k in speedups], [k.high for k in speedups]),
    )


def compared(goals: list[float], sign: float, ends: Ends, speedups: Ends) -> dict[str, Any]:
    """As `compare`, from goals and from lower and upper ends of images and speed-ups."""
    speedup, bound, low, high = summary(*speedups)
    images, images_bound, images_low, images_high = summary(*ends)
    goal = lower_median(goals)
    return {
        "target_value": sign * goal if math.isfinite(goal) else math.nan,
        "seeds": len(goals),
        "censored": sum(end == math.inf for end in ends[1]),
        "images": images,
        "images_low": images_low,
        "images_high": images_high,
        "images_bound": images_bound,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "bound": bound,
        "confidence": confidence(len(goals)),
    }


def _clock(pairs: list[Pair], mine: Strategy, base: Strategy) -> dict[str, float]:
    """Speed-ups in training seconds, if both runs of every pair used the same known hardware."""
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
    """Ratio of seconds of one pair, with `calibration` seconds added to the strategy's."""
    if pair.base is pair.mine and not calibration:
        return Known(1.0, 1.0)
    return pair.base.seconds / pair.mine.seconds.plus(calibration)
