"""Pairs of curves: every preconditioning against the baseline of the same problem and seed.

The tables of speed, profile and area compare the same pairs. They are built once, as arrays over
all problems, so that each table is a few operations on whole arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL, settled
from harness.report.reach import Curves, Ends, middle, ratios
from harness.report.statistics import Groups, confidence

CURVE = [*PROBLEM, *PROTOCOL, "nfe"]


@dataclass(frozen=True)
class Comparisons:
    """All pairs of curves, for problems, protocols and NFEs with a complete seed of the baseline.

    - `entries`: one row for every such comparison (its number is the column `comparison`) and every
      preconditioning planned for its problem, in the grid's order; the columns that the tables
      share, and `is_baseline`;
    - `curves`: of cells with a row at every budget of their comparison; `owners`: their entries;
    - `base`, `mine` [pairs]: numbers of two curves of one seed; `seeds`: the entries of the pairs.
      A preconditioning with the same coefficients as the baseline is given the baseline's own
      curve, since their runs differ by rounding only;
    - `timed` [entries]: whether both runs of every pair used the same known hardware.
    """

    entries: pd.DataFrame
    curves: Curves
    owners: Groups
    base: np.ndarray
    mine: np.ndarray
    seeds: Groups
    timed: np.ndarray

    @property
    def signs(self) -> np.ndarray:
        """Factor from a cost to the metric of every entry: 1, or -1 if larger values are better."""
        return np.where(self.entries["lower_is_better"].to_numpy(bool), 1.0, -1.0)

    def speedups(self, goals: np.ndarray) -> tuple[Ends, Ends]:
        """Images of the preconditioning up to each of `goals` [pairs, goals], and speed-ups."""
        mine = self.curves.at(self.mine).reach(goals)
        return mine, self.ratio(self.curves.at(self.base).reach(goals), mine)

    def ratio(self, base: Ends, mine: Ends, free: np.ndarray | bool = True) -> Ends:
        """Ratios of two clocks [pairs, goals]; 1 for a curve by itself, where `free` of costs."""
        same = (self.base == self.mine)[:, None] & free
        low, high = ratios(base, mine)
        return np.where(same, 1.0, low), np.where(same, 1.0, high)

    def some(self, pairs: np.ndarray) -> Comparisons:
        """With some of the pairs only, by number."""
        seeds = Groups(self.seeds.of[pairs], len(self.entries))
        return replace(self, base=self.base[pairs], mine=self.mine[pairs], seeds=seeds)

    def compare(self, goals: np.ndarray) -> dict[str, np.ndarray]:
        """Columns [entries, goals] of the images to reach `goals` [pairs, goals], and speed-ups."""
        ends, speedups = self.speedups(goals)
        images, images_bound, images_low, images_high = summary(self.seeds, ends)
        speedup, bound, low, high = summary(self.seeds, speedups)
        goal = self.seeds.summary(goals)[0]
        return {
            "target_value": np.where(np.isfinite(goal), self.signs[:, None] * goal, math.nan),
            "censored": (self.seeds.ordered(ends[1]) == math.inf).sum(1),
            "images": images,
            "images_low": images_low,
            "images_high": images_high,
            "images_bound": images_bound,
            "speedup": speedup,
            "speedup_low": low,
            "speedup_high": high,
            "bound": bound,
        }


def summary(seeds: Groups, ends: Ends) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median over seeds of censored numbers, its mark, and the interval of the median."""
    low, lowest, _ = seeds.summary(ends[0])
    high, _, highest = seeds.summary(ends[1])
    return *middle(low, high), lowest, highest


def comparisons(
    rows: pd.DataFrame, cells: pd.DataFrame, baseline: str, marks: Mapping[tuple[str, str], str]
) -> Comparisons:
    """Pair the curves of a grid with those of the baseline; `marks`: see `same_coefficients`."""
    rows = settled(rows, cells)
    rows = rows.assign(comparison=rows.groupby(CURVE).ngroup())
    rows = rows.assign(curve=rows.groupby(["comparison", "run_id"]).ngroup())
    rows = rows.sort_values(["curve", "step"], ignore_index=True)
    found = rows.drop_duplicates("curve")[["comparison", "precond", "seed", "run_id"]]
    found["first"], found["count"] = found.index, rows.groupby("curve").size().to_numpy()
    budgets = rows.groupby("comparison")["step"].nunique()
    found = found[found["count"] == found["comparison"].map(budgets)]

    bases = found[found["precond"] == baseline]
    entries = _entries(rows[rows["comparison"].isin(bases["comparison"])], cells, baseline, marks)
    numbers = entries[["comparison", "precond", "twin"]].assign(entry=entries.index)
    found = found.merge(numbers, on=["comparison", "precond"])
    found = found.sort_values(["entry", "seed"], ignore_index=True).assign(
        hardware=lambda each: each["run_id"].map(cells.set_index("run_id")["hardware"])
    )
    bases = found[found["precond"] == baseline]
    bases = bases[["comparison", "seed", "hardware"]].assign(base=bases.index)
    pairs = found.assign(mine=found.index).merge(bases, on=["comparison", "seed"])
    untimed = (pairs["hardware_x"] != pairs["hardware_y"]) | (pairs["hardware_x"] == "")

    seeds = Groups(pairs["entry"].to_numpy(int), len(entries))
    steps = np.arange(budgets.max() if len(budgets) else 1)
    places = found[["first"]].to_numpy() + np.minimum(steps, found[["count"]].to_numpy() - 1)
    return Comparisons(
        entries.assign(
            seeds=seeds.counts, confidence=[confidence(n) for n in seeds.counts.tolist()]
        ),
        Curves(*(rows[name].to_numpy(float)[places] for name in ("cost", "images", "seconds"))),
        Groups(found["entry"].to_numpy(int), len(entries)),
        pairs["base"].to_numpy(int),
        np.where(pairs["twin"], pairs["base"], pairs["mine"]).astype(int),
        seeds,
        np.bincount(seeds.of[untimed], minlength=len(entries)) == 0,
    )


def _entries(
    rows: pd.DataFrame, cells: pd.DataFrame, baseline: str, marks: Mapping[tuple[str, str], str]
) -> pd.DataFrame:
    """Every comparison with every preconditioning planned for its problem, in the grid's order.

    `twin`: whether its coefficients are the baseline's.
    """
    grouped = rows.groupby("comparison")
    compared = rows.drop_duplicates("comparison")[[*CURVE, "comparison", "lower_is_better"]]
    images = grouped["images"].agg(images_first="min", images_last="max").reset_index()
    planned = cells.groupby([*PROBLEM, "precond"], sort=False, as_index=False).agg(
        seeds_planned=("seed", "nunique"),
        calibration_seconds=("calibration_seconds", "median"),
        calibration_evaluations=("calibration_evaluations", "median"),
    )
    entries = compared.merge(images, on="comparison").merge(planned, on=PROBLEM)
    named = list(zip(entries["teacher"], entries["precond"], strict=True))
    twins = [marks.get(each, "") for each in named]
    functions = [twin or precond for twin, (_, precond) in zip(twins, named, strict=True)]
    basic = [marks.get((teacher, baseline), baseline) for teacher, _ in named]
    return entries.assign(
        same_as=np.array(twins, object),
        twin=np.array(functions, object) == np.array(basic, object),
        is_baseline=entries["precond"] == baseline,
    )
