"""What a grid needs from this machine beside its own files: the weights of its extractors."""

from __future__ import annotations

from collections.abc import Iterable

from harness.api import create
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


def told_at_once(missing: list[str], start: str) -> ConfigError:
    """One sentence for one thing, else a list, a line each, after `start`."""
    if len(missing) == 1:
        return ConfigError(f"{start}: {missing[0]}")
    lines = "".join(f"\n  {line}" for line in missing)
    return ConfigError(f"{start}: {len(missing)} things are missing:{lines}")
