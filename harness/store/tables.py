"""What a report needs to know of a grid, saved beside its tables: cells, skips, baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, nearest
from harness.store.schema import read_versioned, write_versioned

if TYPE_CHECKING:
    from harness.config.matrix import Matrix
    from harness.store.store import ResultStore


def save_matrix(store: ResultStore, matrix: Matrix) -> bool:
    """Write tables/<grid>/matrix.json: which runs belong to the grid and what they owe.

    Returns:
        Whether that is news: tables made before are then of another grid of this name.
    """
    path = store.root / "tables" / matrix.grid.name / "matrix.json"
    described = {
        # where this machine keeps its results is nobody else's business
        "grid": matrix.grid.model_dump(mode="json", exclude={"results"}),
        "request": asdict(matrix.request),
        "wanted": [asdict(measure) for measure in matrix.wanted()],
        "cells": [spec.to_json() for spec in matrix.specs],
        "skips": [asdict(skip) for skip in matrix.skips],
    }
    if path.exists() and read_versioned(path) == json.loads(json.dumps(described)):
        return False
    write_versioned(path, described)
    return True


def load_matrix(store: ResultStore, grid: str) -> dict[str, Any]:
    """Read what `save_matrix` wrote.

    Raises:
        ConfigError: the results folder has seen no grid of that name.
    """
    path = store.root / "tables" / grid / "matrix.json"
    if not path.exists():
        raise ConfigError(f"{store.root} has no grid {grid!r}{nearest(grid, grids(store))}")
    return read_versioned(path)


def grids(store: ResultStore) -> list[str]:
    """Names of the grids that were run into a results folder."""
    return sorted(path.parent.name for path in store.root.glob("tables/*/matrix.json"))
