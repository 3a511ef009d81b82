"""Training speed: images that a preconditioning needs for the quality the baseline ends with.

For every seed the target is the last value of the *baseline of that seed* (or a given number).
images(preconditioning) is where its curve first reaches the target, log-linear between evaluations,
and the speed-up of that seed is images(baseline) / images(preconditioning).

Curves that never reach the target, or have reached it at the first evaluation, give bounds
(harness/report/reach.py). No seed is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from harness.report.comparisons import CURVE, Comparisons, summary

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


def speed_table(compared: Comparisons, targets: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, target, preconditioning); columns: docs/tables.md.

    Only seeds are used for which baseline and preconditioning were evaluated at every budget, or
    diverged; a preconditioning without such a seed has a row with 0 seeds.
    """
    tables = [_toward(compared, compared.curves.costs[compared.base, -1]).assign(target=LAST)]
    for metric, goals in targets.items():
        asked = compared.entries["metric"] == metric
        for goal in goals:
            costs = (compared.signs * goal)[compared.seeds.of]
            tables.append(_toward(compared, costs)[asked].assign(target=str(goal)))
    table = pd.concat(tables).sort_values("comparison", kind="stable", ignore_index=True)
    return table[SPEED_COLUMNS]


def _toward(compared: Comparisons, goals: np.ndarray) -> pd.DataFrame:
    """The rows of one target, with a cost for every pair, [pairs]."""
    goals = goals[:, None]
    base, mine = (
        compared.curves.at(which).reach(goals, "seconds")
        for which in (compared.base, compared.mine)
    )
    cost = compared.entries["calibration_seconds"].to_numpy(float)[compared.seeds.of, None]
    later = mine[0] + cost, mine[1] + cost
    calibrated = compared.ratio(base, later, cost == 0)
    clocks = (
        summary(compared.seeds, each)[0][:, 0]
        for each in (mine, compared.ratio(base, mine), calibrated)
    )
    seconds, speedup, with_calibration = clocks
    columns = {name: found[:, 0] for name, found in compared.compare(goals).items()}
    return compared.entries.assign(
        **columns,
        seconds=seconds,
        speedup_seconds=np.where(compared.timed, speedup, math.nan),
        speedup_seconds_with_calibration=np.where(compared.timed, with_calibration, math.nan),
    )
