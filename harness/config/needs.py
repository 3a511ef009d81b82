"""What a grid needs from this machine beside its own files: weights, and trackers' packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from harness.api.create import create
from harness.errors import ConfigError, HarnessError


def missing_weights(extractors: Iterable[str]) -> list[str]:
    """One sentence for each extractor whose weights are not here or are not the right ones."""
    missing = []
    for name in extractors:
        try:
            create("extractor", name).ready()
        except HarnessError as error:
            missing.append(f"evaluate.extractors: {name}: {error}")
    return missing


def missing_trackers(trackers: Iterable[str]) -> list[str]:
    """One sentence for each tracker of `launch.track` whose package is not installed."""
    return [
        f"launch.track: {name} is not installed; pip install {name.replace('_', '-')}"
        for name in trackers
        if importlib.util.find_spec(name) is None
    ]


def told_at_once(wrong: list[str], start: str, what: str = "things are missing") -> ConfigError:
    """One sentence for one thing, else a list, a line each, after `start` and their number."""
    if len(wrong) == 1:
        return ConfigError(f"{start}: {wrong[0]}")
    lines = "".join(f"\n  {line}" for line in wrong)
    return ConfigError(f"{start}: {len(wrong)} {what}:{lines}")
