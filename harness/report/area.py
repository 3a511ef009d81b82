"""Area between curves: one number for a whole training run, against the baseline's.

For one seed, with v the metric (smaller is better) and u = log(images) over the budgets,

    area = 1 / (u_last - u_first)  *  integral of [log v_baseline(u) - log v_mine(u)] du

by the trapezoid rule: the log ratio of the two metrics, averaged over training on a log axis of
images. It is 0 for equal curves, positive for a better preconditioning, antisymmetric in the two,
and exp(area) is the geometric mean of v_baseline / v_mine. If larger values are better the sign is
reversed. The area is undefined (nan) for values that are not positive, and for a single budget.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from harness.report.comparisons import CURVE, Comparisons
from harness.report.reach import Curves, exactly
from harness.report.statistics import difference

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


def areas(base: Curves, mine: Curves, signs: np.ndarray) -> np.ndarray:
    """Areas between curves evaluated at the same budgets, [pairs]; nan if undefined.

    `signs` [pairs]: 1, or -1 if larger values are better.
    """
    heights = difference(_logs(base.costs, signs[:, None]), _logs(mine.costs, signs[:, None]))
    at = exactly(lambda images: math.log(images) if images > 0 else math.nan, base.images)
    widths = np.nan_to_num(np.diff(at))  # 0 before the first image, and where a curve has ended
    with np.errstate(all="ignore"):
        parts = widths * (heights[:, :-1] + heights[:, 1:]) / 2
        whole = np.where(widths > 0, parts, 0.0).sum(1)
        return whole / (at[:, -1] - np.fmin.reduce(at, axis=1))


def area_table(compared: Comparisons) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, preconditioning): median over pairs, and interval."""
    base, mine = (compared.curves.at(which) for which in (compared.base, compared.mine))
    found = areas(base, mine, compared.signs[compared.seeds.of])
    defined = np.bincount(compared.seeds.of[np.isnan(found)], minlength=len(compared.entries)) == 0
    area, low, high = (np.where(defined, each, math.nan) for each in compared.seeds.summary(found))
    return compared.entries.assign(area=area, area_low=low, area_high=high)[AREA_COLUMNS]


def _logs(costs: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Log of the metric, with the sign for which smaller is better; inf if the run diverged."""
    values = np.where(costs == math.inf, math.nan, signs * costs)
    logs = signs * exactly(lambda value: math.log(value) if value > 0 else math.nan, values)
    return np.where(costs == math.inf, costs, logs)
