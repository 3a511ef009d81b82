"""Training speed: how many images until a strategy is as good as the baseline ends up?

For every seed the target is the value the *baseline of that seed* ends with (or a given number).
images(strategy) is where its curve first reaches the target, log-linear between evaluations. The
speed-up is images(baseline) / images(strategy), paired by seed; the median and the range over
seeds are shown. A curve that never reaches the target is censored: it counts as slower than
images(baseline) / last budget and is printed with a `<`, never dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL

CURVE = [*PROBLEM, *PROTOCOL, "nfe"]


@dataclass(frozen=True)
class Reach:
    """Where a curve reaches its target, in images and training seconds; censored if it does not."""

    images: float
    seconds: float
    censored: bool


def reach(curve: pd.DataFrame, target: float) -> Reach:
    """First crossing of `target` by one cell's curve (columns images, seconds, value, ...)."""
    curve = curve.sort_values("images")
    sign = 1.0 if curve["lower_is_better"].iloc[0] else -1.0
    images, seconds = curve["images"].tolist(), curve["seconds"].tolist()
    values = [sign * value for value in curve["value"]]
    goal = sign * target
    for k, value in enumerate(values):
        if value <= goal:
            part = 1.0 if k == 0 else _fraction(values[k - 1], value, goal)
            before = max(k - 1, 0)
            return Reach(
                images[before] + part * (images[k] - images[before]),
                seconds[before] + part * (seconds[k] - seconds[before]),
                False,
            )
    return Reach(images[-1], seconds[-1], True)


def speed_table(
    rows: pd.DataFrame,
    cells: pd.DataFrame,
    baseline: str,
    targets: dict[str, list[float]],
    marks: dict[tuple[str, str], str],
) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, target, strategy); columns: docs/tables.md.

    Seeds are used only where both the baseline and the strategy were evaluated at every budget.
    """
    records = []
    full = rows.groupby([*CURVE, "precond", "seed"])["step"].transform("nunique")
    complete = rows[full == rows["step"].nunique()] if len(rows) else rows
    for key, group in complete.groupby(CURVE, sort=True):
        problem = dict(zip(CURVE, key, strict=True))
        curves = dict(list(group.groupby(["precond", "seed"])))
        if not any(name == baseline for name, _ in curves):
            continue
        for target in ["baseline", *targets.get(str(problem["metric"]), [])]:
            for precond in group["precond"].drop_duplicates():
                record = _compare(curves, baseline, str(precond), target)
                if record is not None:
                    cost = _calibration(cells, problem, str(precond))
                    twin = marks.get((str(problem["teacher"]), str(precond)), "")
                    record |= {**problem, "precond": precond, "same_as": twin, **cost}
                    records.append(_with_calibration(record, cells, problem, baseline))
    return pd.DataFrame(records, columns=SPEED_COLUMNS)


SPEED_COLUMNS = [
    *CURVE,
    "target",
    "target_value",
    "precond",
    "same_as",
    "seeds",
    "censored",
    "images",
    "images_low",
    "images_high",
    "speedup",
    "speedup_low",
    "speedup_high",
    "bound",
    "seconds",
    "speedup_seconds",
    "calibration_seconds",
    "calibration_evaluations",
    "speedup_seconds_with_calibration",
]


def _compare(
    curves: dict[tuple[str, int], pd.DataFrame],
    baseline: str,
    precond: str,
    target: str | float,
) -> dict[str, object] | None:
    """Paired comparison of one strategy with the baseline at one target; None without pairs."""
    pairs: list[tuple[Reach, Reach, float]] = []
    for (name, seed), curve in sorted(curves.items(), key=lambda item: item[0][1]):
        base = curves.get((baseline, seed))
        if name != precond or base is None:
            continue
        last = base.sort_values("images")["value"].iloc[-1]
        value = float(last) if target == "baseline" else float(target)
        pairs.append((reach(base, value), reach(curve, value), value))
    if not pairs:
        return None
    images = sorted((p.censored, p.images) for _, p, _ in pairs)
    ratios = sorted((_ratio(b.images, p.images), _mark(b, p)) for b, p, _ in pairs)
    by_seconds = sorted(_ratio(b.seconds, p.seconds) for b, p, _ in pairs)
    middle = (len(pairs) - 1) // 2  # the lower median: never better than what was seen
    return {
        "target": "baseline's last" if target == "baseline" else str(target),
        "target_value": sorted(v for _, _, v in pairs)[middle],
        "seeds": len(pairs),
        "censored": sum(p.censored for _, p, _ in pairs),
        "images": images[len(pairs) // 2][1],
        "images_low": images[0][1],
        "images_high": images[-1][1],
        "speedup": ratios[middle][0],
        "speedup_low": ratios[0][0],
        "speedup_high": ratios[-1][0],
        "bound": ratios[middle][1],
        "seconds": sorted(p.seconds for _, p, _ in pairs)[len(pairs) // 2],
        "speedup_seconds": by_seconds[middle],
    }


def _mark(base: Reach, strategy: Reach) -> str:
    """How to read a ratio: exact, `<` (the strategy never got there), `>` (the baseline never)."""
    if base.censored and strategy.censored:
        return "?"
    return "<" if strategy.censored else ">" if base.censored else ""


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf


def _fraction(before: float, after: float, goal: float) -> float:
    """How far between two evaluations the goal lies: log-linear, linear where a value is <= 0."""
    if min(before, after, goal) > 0:
        before, after, goal = math.log(before), math.log(after), math.log(goal)
    return (before - goal) / (before - after) if before != after else 1.0


def _calibration(cells: pd.DataFrame, problem: dict, precond: str) -> dict[str, float]:
    mine = _cells_of(cells, problem, precond)
    return {
        "calibration_seconds": float(mine["calibration_seconds"].median()),
        "calibration_evaluations": float(mine["calibration_evaluations"].median()),
    }


def _with_calibration(record: dict, cells: pd.DataFrame, problem: dict, baseline: str) -> dict:
    """Add the ratio of seconds, calibration included, where both ran on the same hardware."""
    hardware = {
        machine
        for name in (baseline, record["precond"])
        for machine in _cells_of(cells, problem, name)["hardware"]
    }
    if len(hardware) != 1:
        record["speedup_seconds"] = record["speedup_seconds_with_calibration"] = math.nan
        return record
    base_seconds = record["speedup_seconds"] * record["seconds"]
    total = record["seconds"] + record["calibration_seconds"]
    record["speedup_seconds_with_calibration"] = _ratio(base_seconds, total)
    return record


def _cells_of(cells: pd.DataFrame, problem: dict, precond: str) -> pd.DataFrame:
    mask = cells["precond"] == precond
    for axis in PROBLEM:
        mask &= cells[axis] == problem[axis]
    return cells[mask]
