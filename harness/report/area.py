"""Area between curves: one number for a whole training run, against the baseline's.

For one seed, with v the metric (smaller is better) and u = log(images) over the budgets,

    area = 1 / (u_last - u_first)  *  integral of [log v_baseline(u) - log v_strategy(u)] du

by the trapezoid rule: the log ratio of the two metrics, averaged over training on a log axis of
images. It is 0 for equal curves, positive for a better strategy, antisymmetric in the two, and
exp(area) is the geometric mean of v_baseline / v_strategy. If larger values are better the sign is
reversed. The area is undefined (nan) for values that are not positive, and for a single budget.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pandas as pd

from harness.report.reach import Curve
from harness.report.speed import CURVE, Comparison
from harness.report.statistics import confidence, difference, interval, lower_median

AREA_COLUMNS = [
    *CURVE,
    "precond",
    "same_as",
    "seeds",
    "seeds_planned",
    "area",
    "area_low",
    "area_high",
    "confidence",
    "images_first",
    "images_last",
]


def area(baseline: Curve, mine: Curve, lower_is_better: bool = True) -> float:
    """The area between two curves evaluated at the same budgets; nan if undefined."""
    heights = [
        (math.log(images), difference(base, cost))
        for images, base, cost in zip(
            baseline.images,
            _logs(baseline, lower_is_better),
            _logs(mine, lower_is_better),
            strict=True,
        )
        if images > 0
    ]
    if len(heights) < 2:
        return math.nan
    whole = sum((u - t) * (a + b) / 2 for (t, a), (u, b) in pairwise(heights))
    return whole / (heights[-1][0] - heights[0][0])


def area_table(compared: list[Comparison]) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, strategy): median over the pairs of seeds, interval."""
    records = []
    for found in compared:
        for precond in found.planned:
            pairs = found.pairs(precond)
            areas = [area(base, mine, found.lower_is_better) for base, mine in pairs.values()]
            defined = bool(areas) and not any(math.isnan(value) for value in areas)
            low, high = interval(areas) if defined else (math.nan, math.nan)
            records.append(
                found.of(precond)
                | {
                    "seeds": len(areas),
                    "area": lower_median(areas) if defined else math.nan,
                    "area_low": low,
                    "area_high": high,
                    "confidence": confidence(len(areas)),
                    "images_first": found.images[0],
                    "images_last": found.images[1],
                }
            )
    return pd.DataFrame(records, columns=AREA_COLUMNS)


def _logs(curve: Curve, lower_is_better: bool) -> list[float]:
    """Log of the metric, with the sign for which smaller is better; inf if the run diverged."""
    sign = 1.0 if lower_is_better else -1.0
    return [
        cost if cost == math.inf else sign * math.log(sign * cost) if sign * cost > 0 else math.nan
        for cost in curve.costs
    ]
