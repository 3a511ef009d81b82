"""Censored crossings: the images at which curves reach a quality, and how to read their medians.

A curve that never reaches its target needs more images than its last budget; one that has reached
it at its first evaluation needs at most that budget. Images are therefore intervals, [x, x] if the
crossing was observed, and so are their ratios; median and bootstrap interval
(harness/report/statistics.py) are computed for all lower ends and for all upper ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: lower and upper ends of intervals that contain unknown numbers >= 0
Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Curves:
    """Quality against training of many cells, each an array [curves, budgets].

    `costs`: smaller is better, inf if not finite; `images` increase. A curve that is shorter than
    others repeats its last evaluation.
    """

    costs: np.ndarray
    images: np.ndarray
    seconds: np.ndarray

    def at(self, which: np.ndarray) -> Curves:
        """The curves of these numbers."""
        return Curves(self.costs[which], self.images[which], self.seconds[which])

    def reach(self, goals: np.ndarray, clock: Literal["images", "seconds"] = "images") -> Ends:
        """Images or seconds at the first crossing of costs `goals`, [curves, goals].

        Log-linear between evaluations, or linear if a cost is not positive. No curve reaches an
        infinite goal.
        """
        there = (self.costs[:, None] <= goals[..., None]) & (goals < math.inf)[..., None]
        never, k = ~there.any(-1), there.argmax(-1)
        curve, prior = np.arange(len(k))[:, None], np.maximum(k - 1, 0)
        before, after = self.costs[curve, prior], self.costs[curve, k]
        positive = np.minimum(np.minimum(before, after), goals) > 0
        logs = exactly(_log, self.costs)
        a = np.where(positive, logs[curve, prior], before)
        b = np.where(positive, logs[curve, k], after)
        c = np.where(positive, exactly(_log, goals), goals)
        ticks = getattr(self, clock)
        start, end = ticks[curve, prior], ticks[curve, k]
        with np.errstate(all="ignore"):
            part = np.where((a == b) | (before == math.inf), 1.0, (a - c) / (a - b))
            crossing = start + part * (end - start)
        last = np.nan_to_num(ticks[:, -1:])
        low = np.where(never, last, np.where(k == 0, 0.0, crossing))
        return low, np.where(never, math.inf, np.where(k == 0, end, crossing))


def exactly(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """A function of `math`, elementwise; the last bit of numpy's depends on the processor."""
    known, where = np.unique(values, return_inverse=True)
    return np.array(list(map(function, known.tolist())), float)[where].reshape(values.shape)


def ratios(a: Ends, b: Ends) -> Ends:
    """The intervals of a / b; 0 / 0 counts as 1."""
    return _divide(a[0], b[1]), _divide(a[1], b[0])


def middle(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median of censored numbers and a mark of how to read it, from the medians of their ends.

    The k-th smallest of the true numbers lies between the k-th smallest lower end and the k-th
    smallest upper end. The mark is empty if both medians agree, `>` if the value is a lower bound,
    `<` if it is an upper bound, and `?` if nothing is known (the value is nan).
    """
    known = [(low == high) | np.isnan(low), low > 0, high < math.inf]
    return np.select(known, [low, low, high], math.nan), np.select(known, ["", ">", "<"], "?")


def _log(value: float) -> float:
    return math.log(value) if 0 < value < math.inf else math.nan if value <= 0 else value


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        found = np.where(b > 0, a / b, np.where(a == 0, 1.0, math.inf))
    return np.where(b == math.inf, 0.0, found)
