"""Select cells of a grid: `exclude` in the grid, `--only` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.config.plugins import GridPlugins
from harness.config.schema import Axes, Grid
from harness.errors import ConfigError, nearest
from harness.home import without_home
from harness.store.records import PluginSpec


def filters(grid: Grid, make: GridPlugins, only: Iterable[str]) -> dict[str, set[str]]:
    """Axis -> names that `--only` keeps of it.

    Raises:
        ConfigError: a filter is none, or names nothing of the grid.
    """
    keep: dict[str, set[str]] = {}
    for text in only:
        axis, equals, name = text.partition("=")
        if not equals:
            raise ConfigError(f"--only {text}: write axis=name, e.g. precond=ctm or seed=0")
        if axis not in Axes.model_fields:
            raise ConfigError(
                f"--only {text}: no axis is called {axis!r}{nearest(axis, Axes.model_fields)}"
            )
        known = _names(grid, make, axis)
        if known is not None and name not in known:
            raise ConfigError(f"--only {text}: axes.{axis} has no {name!r}{nearest(name, known)}")
        keep.setdefault(axis, set()).add(name)
    return keep


def _names(grid: Grid, make: GridPlugins, axis: str) -> set[str] | None:
    """What `labels_match` knows on an axis; None if that cannot be told, for a broken plugin."""
    if axis == "seed":
        return {str(seed) for seed in grid.axes.seed}
    names: set[str] = set()
    for ref in getattr(grid.axes, axis):
        spec = make.spec(axis, ref)
        if spec is None:
            return None
        names |= {spec.name, spec.label}
    return names


def labels_match(plugins: Mapping[str, PluginSpec], seed: int, axis: str, names: set[str]) -> bool:
    """Whether a cell is one of `names` on an axis, by label or by plugin name."""
    if axis == "seed":
        return str(seed) in names
    return bool({plugins[axis].label, plugins[axis].name} & names)


def excluded(rule: dict[str, Any], plugins: Mapping[str, PluginSpec], seed: int) -> bool:
    """Whether a rule of the grid's `exclude` is about a cell."""
    for axis, wanted_value in rule.items():
        if axis == "seed":
            if wanted_value != seed:
                return False
        elif isinstance(wanted_value, dict):
            params = without_home(wanted_value.get("params", {}))
            spec = plugins[axis]
            if spec.name != wanted_value.get("name", spec.name):
                return False
            if any(spec.params.get(key) != value for key, value in params.items()):
                return False
        elif not labels_match(plugins, seed, axis, {str(wanted_value)}):
            return False
    return True
