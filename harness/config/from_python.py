"""Cells of a grid given from Python: a file or a dict, filters, and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.config.grid import Override, load_grid, make_grid
from harness.config.matrix import Matrix, expand
from harness.registry import registry


def cells_of(
    grid: str | Path | Mapping[str, Any],
    only: Mapping[str, Any] | None = None,
    plugins: Iterable[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Matrix:
    """Expand a grid to its cells, with filters and overrides; errors name a dict `grid`.

    Args:
        grid: a file, or what one holds, in which `version` and `name` may be left out.
        only: axis -> one or several plugins or seeds.
        plugins: files to load.
        overrides: values of the grid, `__` in their names for `.`.

    Raises:
        ConfigError: see `load_grid` and `expand`.
    """
    files = [str(plugin) for plugin in plugins]
    for file in files:
        registry.load_file(file)
    changes = [
        Override(key.replace("__", "."), value, f"{key}={value!r}")
        for key, value in (overrides or {}).items()
    ]
    if isinstance(grid, Mapping):
        made = make_grid({"version": 1, "name": "grid", **grid}, changes, "grid")
    else:
        made = load_grid(Path(grid).expanduser(), changes)
    chosen = [
        f"{axis}={value}"
        for axis, values in (only or {}).items()
        for value in (values if isinstance(values, list | tuple | set) else [values])
    ]
    return expand(made, chosen, files)
