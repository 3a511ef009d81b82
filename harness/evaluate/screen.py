"""Rank the preconditionings of a grid by two quantities that need no training.

Both are relative to the RMS of x_s, averaged (RMS) over the jumps of an exact sampler of n steps,
and given as ratios to the grid's baseline:

- the error before training correlates with the error early in training, but not at its end;
- the amplification correlates with the error at the end of training, for few steps: the error of
  the network is multiplied by `out`, and the part that it cannot learn remains.

`ACCURACY` holds the correlations on the published studies (results/prediction.csv, checked by a
test).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from harness.api import Dataset, Preconditioning, Teacher
from harness.core.schedule import karras
from harness.evaluate.gap import Gap, measure_gaps


class Screened(NamedTuple):
    """Both ratios to the baseline for one number of steps; below 1 is better."""

    precond: str
    nfe: int
    untrained: float
    amplification: float


class Accuracy(NamedTuple):
    """Spearman's rank correlation of one quantity with the error at NFE 1, 2 and 5.

    `part`: the error is taken at the start or at the end of training. `study`: short, 150 steps on
    a grid of six mixtures; long, 3,000 to 10,000 steps on the ring, the ring off centre and patches
    of photographs; held-out, long studies made after both quantities had been chosen (32
    dimensions, and patches with a student twice as wide).
    """

    number: str
    part: str
    study: str
    pairs: int
    rho: tuple[float, float, float]


def screen(
    preconds: Mapping[str, Preconditioning],
    teacher: Teacher,
    dataset: Dataset,
    baseline: str,
    steps: Sequence[int],
    samples: int,
) -> list[Screened]:
    """Both ratios of all preconditionings and numbers of steps, by the error before training.

    Args:
        preconds: calibrated preconditionings by label, including the baseline.
        steps: numbers of steps of the sampler, on Karras noise levels.
        samples: number of data samples.
    """
    spec, found = teacher.spec, []
    for nfe in steps:
        levels = karras(nfe + 1, spec.sigma_min, spec.sigma_max)
        gaps = measure_gaps(preconds, teacher, dataset, levels, samples)
        jumps = [(float(t), float(s)) for t, s in pairwise(levels)]
        size = {}
        for name in preconds:
            own = [gaps[name, t, s] for t, s in jumps]
            size[name] = relative(own, "untrained"), relative(own, "amplification")
        rows = [
            Screened(name, nfe, *(a / b for a, b in zip(size[name], size[baseline], strict=True)))
            for name in preconds
        ]
        found += sorted(rows, key=lambda row: row.untrained)
    return found


def relative(gaps: Sequence[Gap], name: str) -> float:
    """RMS over jumps of the quantity `name` divided by the RMS of x_s."""
    return math.sqrt(sum((getattr(gap, name) / gap.size) ** 2 for gap in gaps) / len(gaps))


ACCURACY = (
    Accuracy("error before training", "start", "short", 48, (0.99, 1.00, 0.85)),
    Accuracy("error before training", "start", "long", 11, (0.92, 0.90, 0.56)),
    Accuracy("error before training", "start", "held-out", 11, (0.82, 0.85, 0.76)),
    Accuracy("error before training", "end", "short", 48, (0.91, 0.93, 0.83)),
    Accuracy("error before training", "end", "long", 11, (-0.41, -0.11, 0.45)),
    Accuracy("error before training", "end", "held-out", 11, (-0.37, -0.29, -0.12)),
    Accuracy("amplification", "start", "short", 48, (0.15, -0.12, -0.40)),
    Accuracy("amplification", "start", "long", 11, (-0.09, -0.15, -0.45)),
    Accuracy("amplification", "start", "held-out", 11, (-0.15, -0.35, -0.69)),
    Accuracy("amplification", "end", "short", 48, (-0.03, -0.16, -0.19)),
    Accuracy("amplification", "end", "long", 11, (0.58, 0.89, 0.16)),
    Accuracy("amplification", "end", "held-out", 11, (0.32, 0.68, 0.24)),
)
