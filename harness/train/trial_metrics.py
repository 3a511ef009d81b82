"""Run extractors and metrics on a few samples before the first cell starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.api import ConfigError, Metric, Score, create
from harness.api.evaluation import EXTRACTED
from harness.config.plugins import is_untried
from harness.core.random import normal
from harness.errors import HarnessError, described
from harness.evaluate.features import Features
from harness.evaluate.images import is_image, quantise
from harness.evaluate.moments import Moments
from harness.registry import blaming, place, registry

SAMPLES = 4
#: largest length of the feature vectors that a metric is tried on
WIDTH = 2048


def try_extractor(name: str, shape: Sequence[int]) -> int:
    """Check the features of a few samples; return the length of a feature vector."""
    cls = registry.get("extractor", name)
    samples = normal(0, "trial", 0, torch.arange(SAMPLES), shape, torch.float32)
    with blaming("extractor", cls, "__call__"):
        extractor = create("extractor", name).ready()
        seen = quantise(samples) if is_image(shape) else samples
        vectors: object = extractor(seen)
    where = f"extractor {name!r} ({place(cls, method='__call__')})"
    if not isinstance(vectors, Tensor):
        raise ConfigError(f"{where} gave {described(vectors)}, expected a floating tensor [B, d]")
    try:
        found = Features(extractor, keep=True)
        found.add(seen)
    except HarnessError as error:
        raise ConfigError(f"{where}: {error}") from None
    return found.vectors.shape[1]


def try_metric(
    plugin: Mapping[str, Any], extractors: Iterable[str], n: int, shape: Sequence[int]
) -> None:
    """Check that a metric is finite on random positive features of each extractor's length."""
    cls = registry.get("metric", plugin["name"])
    with blaming("metric", cls):
        metric: Metric = create("metric", **plugin)
    if metric.needs not in (*EXTRACTED, "samples", "trajectory"):
        raise ConfigError(
            f"metric {metric.name!r} ({place(cls)}): needs is {metric.needs!r}, none of"
            f" {', '.join(EXTRACTED)}, samples, trajectory"
        )
    if metric.needs in ("trajectory", "samples"):
        lengths = [math.prod(shape)]
    elif metric.needs == "logits":
        lengths = [10]
    else:
        lengths = [_length(name, shape) for name in extractors]
    for length in dict.fromkeys(min(length, WIDTH) for length in lengths):
        numbers = torch.arange(n)
        one, two = (normal(k, "trial", 0, numbers, (length,), torch.float64).abs() for k in (0, 1))
        given: list[Any] = [one, two]
        if metric.needs == "moments":
            given = [Moments.of(one), Moments.of(two)]
        elif metric.needs == "logits":
            given = [one, None]
        elif metric.needs == "samples":
            given = [each.float().view(n, *shape) for each in given]
            given = [quantise(each - 1) if is_image(shape) else each for each in given]
        with blaming("metric", cls, "compute"):
            found: object = metric.compute(*given)
        value = found.value if isinstance(found, Score) else found
        where = f"metric {metric.name!r} ({place(cls, method='compute')}): compute gave"
        try:
            finite = math.isfinite(float(value))  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"{where} {described(found)}, expected a number or a Score") from None
        if not finite:
            raise ConfigError(f"{where} {value} for {n} vectors of {length} features")


def _length(name: str, shape: Sequence[int]) -> int:
    """Length of an extractor's feature vectors."""
    cls = registry.get("extractor", name)
    if is_untried("extractor", name):
        return try_extractor(name, shape)
    return int(cls.dim or math.prod(shape))
