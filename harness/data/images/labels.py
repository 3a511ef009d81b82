"""Labels of an image set, from the dataset.json of EDM's layout."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.api import ConfigError
from harness.data.images.files import LABELS, Files

if TYPE_CHECKING:
    import numpy as np

MOST_CLASSES = 100_000


def read_labels(files: Files, images: list[str]) -> tuple[np.ndarray, int]:
    """Labels of `images` in their order, and their width.

    Returns:
        Either class numbers, int64 [N], and their count (the largest plus one); or, where the file
        has lists of numbers, those vectors as they are, float32 [N, width], and their width.

    Raises:
        ConfigError: there are none, one is missing, or one is not a class number.
    """
    import numpy as np

    by_name = _table(files)
    missing = next((name for name in images if name not in by_name), None)
    if missing is not None:
        raise ConfigError(
            f"{files.where}: {LABELS} has no label for {missing}; label every image, or set"
            " labels: false"
        )
    values = [by_name[name] for name in images]
    if all(isinstance(value, list) for value in values):
        widths = {len(value) for value in values}
        numbers = all(type(n) in (int, float) for value in values for n in value)
        if len(widths) != 1 or not numbers or widths == {0}:
            raise ConfigError(f"{files.where}: {LABELS}: label vectors must be of one length")
        vectors = np.asarray(values, dtype=np.float32)
        if not (finite := np.isfinite(vectors).all(1)).all():
            raise ConfigError(
                f"{files.where}: {LABELS}: the label of {images[int(finite.argmin())]} is not"
                " finite; write numbers"
            )
        return vectors, widths.pop()
    for name, value in zip(images, values, strict=True):
        if type(value) is not int or not 0 <= value < MOST_CLASSES:
            raise ConfigError(
                f"{files.where}: {LABELS}: label {str(value)[:40]} of {name} is out of range;"
                f" a class is a whole number from 0 to {MOST_CLASSES - 1}"
            )
    return np.asarray(values, dtype=np.int64), max(values) + 1


def _table(files: Files) -> dict[str, Any]:
    if LABELS not in files.names:
        raise ConfigError(
            f"{files.where}: labels: true needs a {LABELS}, which is not there; add it, or set"
            " labels: false"
        )
    try:
        content = json.loads(files.read(LABELS))
        labels = content["labels"]
        if labels is None:
            raise ConfigError(f"{files.where}: {LABELS} says labels: null; set labels: false")
        pairs = [(name.replace("\\", "/"), value) for name, value in labels]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f'{files.where}: {LABELS} is not {{"labels": [[name, class], ...]}}'
            f" ({type(error).__name__})"
        ) from None
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        raise ConfigError(f"{files.where}: {LABELS} gives {twice} a label twice; keep one of them")
    return by_name
