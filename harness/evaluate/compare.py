"""Compare two sets of images on disk: each is decoded and extracted once for all metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.api import ConfigError, Extractor, HarnessError, Metric, Score
from harness.evaluate.features import Features, as_score, check_pair, few, score
from harness.evaluate.reference import Reference, describe, is_statistics, load_reference
from harness.evaluate.sources import Source, open_images

Side = Source | Reference
#: wraps an iterable of batches to show progress: (batches, number of images, name of the set)
Progress = Callable[[Iterable[Tensor], int, str], Iterable[Tensor]]


@dataclass
class Comparison:
    """Scores by metric, with sample sizes, notes for the reader, and seconds taken."""

    extractor: str
    n: int
    reference_n: int
    dim: int
    scores: dict[str, Score]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def open_side(path: str | Path, extractor: Extractor, n: int | None = None) -> Side:
    """Open images, or a file of statistics; `n` is needed for files with mu and sigma only."""
    if is_statistics(path):
        return load_reference(Path(path), extractor, n)
    return open_images(path)


def check(metrics: Mapping[str, Metric], extractor: Extractor, sides: list[Side]) -> None:
    """Check before any work that every metric can be computed on the given sides.

    Raises:
        ConfigError: the first reason why one cannot.
    """
    for name, metric in metrics.items():
        if metric.needs == "trajectory":
            raise ConfigError(f"metric {name!r} compares with a teacher, not with images; leave it")
        check_pair(metric, extractor, images=True)
        for side in sides[:1] if metric.needs == "logits" else sides:
            if metric.needs != "moments" and isinstance(side, Reference):
                raise ConfigError(
                    f"metric {name!r} needs the images themselves, but {side.path} holds"
                    " mean and covariance alone; give the images, or ask for frechet"
                )
    if not extractor.images_only:
        shapes = dict.fromkeys(shape for side in sides if (shape := _shape(side)))
        if len(shapes) > 1:
            told = " with ".join(_say(shape) for shape in shapes)
            raise ConfigError(
                f"extractor {extractor.name!r} cannot compare {told} images: convert one of the two"
                " sets first"
            )


def _shape(side: Side) -> tuple[int, ...]:
    """[C, H, W] of the images of a side; empty if its statistics do not contain it."""
    return side.shape if isinstance(side, Source) else tuple(side.meta.get("shape", ()))


def _say(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'colour'} {width}x{height}"


def extract(
    side: Side, extractor: Extractor, keep: bool, batch: int, device: Any, progress: Progress
) -> Features:
    """Features of one side, extracted on `device`; for statistics, only their moments."""
    if isinstance(side, Reference):
        return Features.restored(extractor, side.moments)
    features = Features(extractor, keep)
    for images in progress(side.batches(batch), side.n, str(side.path)):
        features.add(images.to(device, non_blocking=True))
    return features


def _images(side: Side, batch: int) -> Tensor:
    """All images of a side, uint8 [n, C, H, W]; the side must not be statistics."""
    assert isinstance(side, Source)
    return torch.cat(list(side.batches(batch)))


def compare(
    sides: list[Side],
    extractor: Extractor,
    metrics: Mapping[str, Metric],
    *,
    batch: int = 64,
    device: Any = "cpu",
    progress: Progress = lambda batches, n, what: batches,
) -> tuple[Comparison, Features]:
    """Score the first side against the last; also return the features of the last.

    With a single side (to make statistics) there are no scores.

    Raises:
        HarnessError: the value of a metric is not finite.
    """
    started = time.perf_counter()
    keep = any(metric.needs in ("features", "logits") for metric in metrics.values())
    features = [extract(side, extractor, keep, batch, device, progress) for side in sides]
    first, last = features[0], features[-1]
    dim = len(first.moments.mean)
    found = Comparison(extractor.id, first.moments.n, last.moments.n, dim, {})
    if len(sides) > 1:
        images = None
        for name, metric in metrics.items():
            if metric.needs == "samples":
                images = images or [_images(side, batch) for side in sides]
                found.scores[name] = as_score(metric.compute(*images))
            else:
                found.scores[name] = score(metric, first, last)
        for name, (value, std) in found.scores.items():
            if not math.isfinite(value) or not math.isfinite(std or 0):
                raise HarnessError(f"metric {name!r} gave {value} (std {std}) on these features")
    found.seconds = time.perf_counter() - started
    warning = few(min(found.n, found.reference_n), dim)
    by_moments = any(metric.needs == "moments" for metric in metrics.values())
    found.notes = notes(sides, extractor) + ([warning] if warning and by_moments else [])
    return found, last


def notes(sides: list[Side], extractor: Extractor) -> list[str]:
    """Notes for the reader of the scores: conversions of images, grey against colour."""
    sources = [side for side in sides if isinstance(side, Source)]
    said = [note for source in sources for note in source.notes]
    channels = [source.shape[0] for source in sources]
    if 1 in channels and extractor.images_only:
        grey = ", ".join(str(s.path) for s in sources if s.shape[0] == 1)
        said.append(f"{grey}: grey images; {extractor.name} takes the one channel for all")
        if 3 in channels:
            said.append("grey images are compared with colour ones: much of the distance is colour")
    return said


def statistics(source: Source, features: Features) -> Reference:
    """The statistics that `fid --save` writes, from a source and its features."""
    return Reference(features.moments, describe(features.extractor, source))
