"""Check what a grid needs on this machine: weights, files of objectives, trackers' packages."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.api.create import create
from harness.config.schema import NeededFile
from harness.errors import ConfigError, HarnessError
from harness.store.records import PluginSpec


def missing_weights(extractors: Iterable[str]) -> list[str]:
    """One sentence for each extractor whose weights are not here or are not the right ones."""
    missing = []
    for name in extractors:
        try:
            create("extractor", name).ready()
        except HarnessError as error:
            missing.append(f"evaluate.extractors: {name}: {error}")
    return missing


def unready_objectives(objectives: Iterable[PluginSpec]) -> list[str]:
    """One sentence for each objective whose files are not here or are not the right ones."""
    wrong = []
    for label, spec in {each.label: each for each in objectives}.items():
        try:
            create("objective", spec.name, spec.params).ready()
        except HarnessError as error:
            wrong.append(f"objective {label!r}: {error}")
    return wrong


def wrong_files(needs: Mapping[str, str | NeededFile]) -> list[str]:
    """One sentence for each file of a grid's `needs` whose sha256 is another than it says."""
    wrong = []
    for name, need in needs.items():
        path = Path(os.environ.get(name, ""))
        if isinstance(need, str) or need.sha256 is None or not path.is_file():
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(need.sha256):
            wrong.append(
                f"{path} ({name}) has sha256 {found[:16]}..., not {need.sha256[:16]}: it is another"
                f" file or was not fetched whole; expected is {need.told()}"
            )
    return wrong


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
