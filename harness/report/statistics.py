"""Medians, intervals and comparisons over seeds, exact by order statistics.

The bootstrap resamples seeds with replacement and takes the median of each resample. That median is
always one of the n values, with probabilities known in closed form:

    P(median* <= x_(k)) = P(Binomial(n, k / n) >= m),      m = ceil(n / 2), x_(1) <= ... <= x_(n)

so the percentile interval is [x_(k), x_(n+1-k)] with the smallest k whose probability is not below
(1 - LEVEL) / 2. It is the limit of infinitely many resamples, is equivariant under monotone
transformations, and admits infinite values (censored and diverged runs). Up to 6 seeds it is the
whole range. `confidence` is the exact coverage of the interval, without a resampling argument.
docs/statistics.md has the derivations.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

#: nominal level of the bootstrap intervals
LEVEL = 0.95
#: number of seeds up to which binomial coefficients fit a float
EXACT = 1000


@cache
def trim(n: int, level: float = LEVEL) -> int:
    """Number of values to remove from either end of n sorted ones to obtain the interval."""
    middle = (n + 1) // 2
    tail = (1 - level) / 2
    return next(k for k in range(n) if _at_least(n, (k + 1) / n, middle) >= tail)


@cache
def confidence(n: int) -> float:
    """Probability that the interval of n seeds contains the true median, for any distribution.

    1 - 2 P(Binomial(n, 1/2) <= k) with k values trimmed on either side: 0.5 with 2 seeds, 0.75
    with 3, 0.94 with 5. nan for one seed.
    """
    if n < 2:
        return math.nan
    missed = sum(math.comb(n, i) for i in range(trim(n) + 1))
    return 1.0 - 2.0 * (missed / 2**n)


class Groups:
    """Order statistics of many groups of values at once, such as the seeds of every table row.

    `of` [values] is the group of every value, ascending; groups are 0 to `n` - 1 and may be empty.
    Values are arrays [values, ...], results [groups, ...]; nan where a group has too few values.
    """

    def __init__(self, of: np.ndarray, n: int) -> None:
        self.of = of
        self.counts = np.bincount(of, minlength=n)
        self.places = np.arange(len(of)) - (np.cumsum(self.counts) - self.counts)[of]
        self.trims = _trims(self.counts)

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """The values of every group in ascending order, padded with nan: [groups, places, ...]."""
        shape = len(self.counts), self.counts.max(initial=1), *values.shape[1:]
        found = np.full(shape, math.nan)
        found[self.of, self.places] = values
        found.sort(axis=1)
        return found

    def summary(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Median of every group, and both ends of its bootstrap percentile interval.

        For an even number of values the median is the smaller of the two middle ones. Fewer than
        two values have no interval.
        """
        found, last = self.ordered(values), self.counts - 1
        places = (last // 2, self.trims, last - self.trims)
        median, low, high = (found[np.arange(len(found)), place] for place in places)
        low[self.counts < 2] = high[self.counts < 2] = math.nan
        return median, low, high

    def median(self, values: np.ndarray) -> np.ndarray:
        """The median of every group; for an even number, the mean of the two middle values."""
        found, group = self.ordered(values), np.arange(len(self.counts))
        return (found[group, (self.counts - 1) // 2] + found[group, self.counts // 2]) / 2


def difference(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """a - b elementwise, where two infinite values (diverged runs) have difference 0."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def is_better(mine: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """Whether costs `mine` [..., seeds] are below `theirs` beyond the noise between seeds.

    True if the interval of the median of the paired differences lies below zero; up to 6 seeds this
    means better on every seed. If neither is better than the other, they are tied. With one seed
    the sign decides. Seeds are missing where one of the two is nan.
    """
    ordered = np.sort(difference(mine, theirs))
    last = (~np.isnan(ordered)).sum(-1) - 1
    place = np.maximum(last - _trims(last + 1), 0)
    if not ordered.shape[-1]:
        return np.zeros(place.shape, bool)
    return np.take_along_axis(ordered, place[..., None], -1)[..., 0] < 0


def _trims(counts: np.ndarray) -> np.ndarray:
    """`trim` elementwise; 0 for no values."""
    known, where = np.unique(counts, return_inverse=True)
    return np.array([trim(n) if n else 0 for n in known.tolist()], int)[where].reshape(counts.shape)


def _at_least(n: int, p: float, m: int) -> float:
    """P(Binomial(n, p) >= m)."""
    if n <= EXACT:
        return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(m, n + 1))
    if p >= 1:
        return 1.0
    log = [math.lgamma(k + 1) for k in range(n + 1)]
    return math.fsum(
        math.exp(log[n] - log[i] - log[n - i] + i * math.log(p) + (n - i) * math.log1p(-p))
        for i in range(m, n + 1)
    )
