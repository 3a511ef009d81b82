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
from collections.abc import Sequence
from functools import cache

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


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap percentile interval of the median; (nan, nan) for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    ordered, k = sorted(values), trim(n)
    return ordered[k], ordered[n - 1 - k]


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


def lower_median(values: Sequence[float]) -> float:
    """The median; for an even number of values, the smaller of the two middle ones."""
    return sorted(values)[(len(values) - 1) // 2]


def difference(a: float, b: float) -> float:
    """a - b, where two infinite values (diverged runs) have difference 0."""
    return 0.0 if a == b else a - b


def is_better(mine: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether costs `mine` are below `theirs` beyond the noise between seeds; lists paired by seed.

    True if the interval of the median of the paired differences lies below zero; up to 6 seeds this
    means better on every seed. If neither is better than the other, they are tied. With one seed
    the sign decides.
    """
    n = len(mine)
    if n == 0:
        return False
    ordered = sorted(difference(a, b) for a, b in zip(mine, theirs, strict=True))
    return ordered[n - 1 - trim(n)] < 0


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
