"""Quality along training: one point per budget, median and range over seeds."""

from __future__ import annotations

import pandas as pd

from harness.report.comparisons import CURVE
from harness.report.frame import PROBLEM, settled


def curve_points(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, preconditioning, step), in the order of training.

    Further columns: images, seconds, median, low, high, seeds, lower_is_better. A diverged seed
    counts as infinitely bad. `seconds` is the median over seeds of training time plus calibration
    time; nan for a problem whose cells did not all run on the same known hardware.
    """
    rows = settled(rows, cells)
    points = rows.groupby([*CURVE, "precond", "step"], sort=False).agg(
        images=("images", "max"),
        seconds=("seconds", "median"),
        median=("cost", "median"),
        low=("cost", "min"),
        high=("cost", "max"),
        seeds=("seed", "nunique"),
        lower_is_better=("lower_is_better", "first"),
    )
    up = ~points["lower_is_better"].astype(bool)
    points.loc[up, ["low", "high"]] = -points.loc[up, ["high", "low"]].to_numpy()
    points.loc[up, "median"] *= -1
    cost = cells.groupby([*PROBLEM, "precond"])["calibration_seconds"].median()
    machines = cells[cells["folder"] != ""].groupby(PROBLEM)["hardware"].agg(set)
    known = machines.map(lambda names: len(names) == 1 and names != {""})
    points = points.reset_index().merge(cost.reset_index(), on=[*PROBLEM, "precond"])
    points = points.merge(known.rename("known").reset_index(), on=PROBLEM)
    seconds = (points["seconds"] + points.pop("calibration_seconds")).where(points.pop("known"))
    return points.assign(seconds=seconds).sort_values("step", kind="stable").reset_index(drop=True)
