"""What a report needs to know of a grid, and what its tables were made from, saved beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, nearest
from harness.home import told_without_home, without_home
from harness.store.files import read_json, write_json
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
        # where this machine keeps its results, and what secrets it has, is nobody else's business
        "grid": matrix.grid.model_dump(
            mode="json", exclude={"results": True, "launch": {"environment", "slurm"}}
        ),
        "request": asdict(matrix.request),
        "wanted": [asdict(measure) for measure in matrix.wanted()],
        "cells": [spec.to_json() for spec in matrix.specs],
        "skips": [
            {"cell": skip.cell, "reason": told_without_home(skip.reason)} for skip in matrix.skips
        ],
    }
    if path.exists() and read_versioned(path) == json.loads(json.dumps(without_home(described))):
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


def sources(store: ResultStore, grid: str) -> dict[str, Any]:
    """What the tables of a grid are made from: digests of every run's rows and status."""
    return {
        cell["run_id"]: {
            name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            for name in ("eval.jsonl", "status.json")
            if (path := store.run_at(cell["run_id"]).path / name).exists()
        }
        for cell in load_matrix(store, grid)["cells"]
    }


def save_sources(store: ResultStore, grid: str, found: dict[str, Any]) -> None:
    """Say what the tables that now lie beside it were made from; written after them."""
    write_json(store.root / "tables" / grid / "sources.json", found)


def are_current(store: ResultStore, grid: str) -> bool:
    """Whether the tables of a grid are all there and made from the runs as they are."""
    path = store.root / "tables" / grid / "sources.json"
    return path.exists() and bool(read_json(path) == sources(store, grid))


def grids(store: ResultStore) -> list[str]:
    """Names of the grids that were run into a results folder."""
    return sorted(path.parent.name for path in store.root.glob("tables/*/matrix.json"))
