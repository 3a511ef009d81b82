"""Censored crossings: the images at which a curve reaches a quality, and summaries over seeds.

A curve that never reaches its target needs more images than its last budget; one that has reached
it at its first evaluation needs at most that budget. Images are therefore intervals, [x, x] if the
crossing was observed, and so are their ratios; median and bootstrap interval
(harness/report/statistics.py) are computed for all lower ends and for all upper ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from harness.report.statistics import interval, lower_median


class Known(NamedTuple):
    """An interval [low, high] that contains an unknown number >= 0."""

    low: float
    high: float

    def __truediv__(self, other: Known) -> Known:
        """The interval of the ratio; 0 / 0 counts as 1."""
        return Known(_divide(self.low, other.high), _divide(self.high, other.low))

    def plus(self, more: float) -> Known:
        """The interval of the sum with a number."""
        return Known(self.low + more, self.high + more)


class Reach(NamedTuple):
    """Where a curve reaches its target, in images and in training seconds."""

    images: Known
    seconds: Known

    @property
    def censored(self) -> bool:
        """Whether the curve never reaches the target."""
        return self.images.high == math.inf


@dataclass(frozen=True)
class Curve:
    """One cell's quality against training images: costs (smaller is better), images increasing."""

    images: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    _reached: dict[float, Reach] = field(default_factory=dict, repr=False, compare=False)

    def reach(self, goal: float) -> Reach:
        """First crossing of the cost `goal`, log-linear between evaluations.

        Cached, since the baseline is asked once per strategy; nothing may be appended afterwards.
        """
        if (known := self._reached.get(goal)) is None:
            known = self._reached[goal] = self._reach(goal)
        return known

    def _reach(self, goal: float) -> Reach:
        k = self._first(goal)
        if k is None:
            return Reach(_at_least(self.images[-1]), _at_least(self.seconds[-1]))
        if k == 0:
            return Reach(Known(0.0, self.images[0]), Known(0.0, self.seconds[0]))
        part = _fraction(self.costs[k - 1], self.costs[k], goal)
        return Reach(_at(self.images, k, part), _at(self.seconds, k, part))

    def _first(self, goal: float) -> int | None:
        """Index of the first evaluation that is as good as `goal`; none is if it is infinite."""
        if goal < math.inf:
            for k, cost in enumerate(self.costs):
                if cost <= goal:
                    return k
        return None


class Stack:
    """Curves of several seeds as arrays: a vectorised `Curve.reach` with a goal for each seed.

    Images are bitwise equal to those of `Curve.reach`.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        longest = max(len(curve.costs) for curve in curves)
        self.costs = np.full((len(curves), longest), math.inf)
        self.images = np.zeros_like(self.costs)
        self.logs = np.full_like(self.costs, math.nan)
        for row, curve in enumerate(curves):
            count = len(curve.costs)
            self.costs[row, :count], self.images[row, :count] = curve.costs, curve.images
            self.logs[row, :count] = [_log(cost) for cost in curve.costs]
        last = np.array([curve.images[-1] for curve in curves], dtype=float)
        self.last = np.where(np.isnan(last), 0.0, last)

    def reach(self, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the images that each curve needs for its goals, [..., seeds]."""
        there = (self.costs <= goals[..., None]) & (goals < math.inf)[..., None]
        never, k = ~there.any(-1), there.argmax(-1)
        rows, prior = np.arange(len(self.costs)), np.maximum(k - 1, 0)
        before, after = self.costs[rows, prior], self.costs[rows, k]
        positive = np.minimum(np.minimum(before, after), goals) > 0
        log = {goal: _log(goal) for goal in set(goals.ravel().tolist())}
        logs = np.array([log[goal] for goal in goals.ravel().tolist()]).reshape(goals.shape)
        a = np.where(positive, self.logs[rows, prior], before)
        b = np.where(positive, self.logs[rows, k], after)
        c = np.where(positive, logs, goals)
        part = np.where((a == b) | (before == math.inf), 1.0, (a - c) / (a - b))
        start, end = self.images[rows, prior], self.images[rows, k]
        at = start + part * (end - start)
        low = np.where(never, self.last, np.where(k == 0, 0.0, at))
        high = np.where(never, math.inf, np.where(k == 0, end, at))
        return low, high


def ratios(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`_divide`, elementwise."""
    found = np.where(b > 0, a / b, np.where(a == 0, 1.0, math.inf))
    return np.where(b == math.inf, 0.0, found)


def _log(value: float) -> float:
    return math.log(value) if 0 < value < math.inf else math.nan if value <= 0 else value


def summarise(known: Sequence[Known]) -> tuple[float, str, float, float]:
    """Lower median of censored numbers, a mark of how to read it, and the interval of the median.

    The k-th smallest of the true numbers lies between the k-th smallest lower end and the k-th
    smallest upper end. The mark is empty if both medians agree, `>` if the value is a lower bound,
    `<` if it is an upper bound, and `?` if nothing is known (the value is nan).
    """
    return summary([k.low for k in known], [k.high for k in known])


def summary(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, str, float, float]:
    """`summarise` for lists of lower and upper ends."""
    return *middle(lows, highs), interval(lows)[0], interval(highs)[1]


def middle(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, str]:
    """The first two results of `summary`: the lower median and its mark."""
    low, high = lower_median(lows), lower_median(highs)
    if low == high:
        return low, ""
    if low > 0:
        return low, ">"
    return (high, "<") if high < math.inf else (math.nan, "?")


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
    """Position of the goal between two evaluations: log-linear, or linear if a value is <= 0."""
    if before == math.inf:
        return 1.0
    if min(before, after, goal) > 0:
        before, after, goal = math.log(before), math.log(after), math.log(goal)
    return (before - goal) / (before - after) if before != after else 1.0
