"""Copy the files of a grid's runs that readers need to another folder; no weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.store.files import write_atomic
from harness.store.sources import kept_source
from harness.store.store import ResultStore
from harness.store.tables import load_matrix

#: digits of published coefficients; keys (noise levels) that keep all digits
DIGITS, LEVELS = 12, ("t", "s", "told", "sigma")
#: files of a run that are copied; those with paths of the machine (request.json, logs) are not
KEPT = (
    "spec.json",
    "provenance.json",
    "status.json",
    "eval.jsonl",
    "train.jsonl",
)


def copy_grid(store: ResultStore, grid: str, target: ResultStore) -> tuple[int, int]:
    """Copy a grid's matrix.json and its runs, diverged and failed ones included.

    For the first seed also the last pictures for each NFE, and for the first seed that has them the
    coefficients, which depend on no seed. Existing files are replaced; other grids in `target` are
    unchanged.

    Returns:
        The numbers of runs copied and of runs in the grid.

    Raises:
        ConfigError: the folder has no such grid.
        ArtifactError: files of a run are damaged.
    """
    cells = load_matrix(store, grid)["cells"]
    seeds = [cell["seed"] for cell in cells]
    copied, drawn = 0, set()
    for cell in cells:
        source, goal = (each.run_at(cell["run_id"]).path for each in (store, target))
        if not (source / "spec.json").exists():
            continue
        run = store.run_at(cell["run_id"])
        _ = run.spec, run.status(), run.origin(), run.rows()
        goal.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (source / name).exists():
                shutil.copyfile(source / name, goal / name)
        of_all_seeds = json.dumps([cell[key] for key in sorted(cell.keys() - {"seed", "run_id"})])
        coefficients = source / "coefficients.json"
        if coefficients.exists() and of_all_seeds not in drawn:
            shutil.copyfile(coefficients, goal / coefficients.name)
            if shorten(goal / coefficients.name):
                drawn.add(of_all_seeds)
        for path in _last_pictures(source / "samples") if cell["seed"] == seeds[0] else ():
            (goal / "samples").mkdir(exist_ok=True)
            shutil.copyfile(path, goal / "samples" / path.name)
        copied += 1
    tables = target.root / "tables" / grid
    tables.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store.root / "tables" / grid / "matrix.json", tables / "matrix.json")
    return copied, len(cells)


def shorten(path: Path) -> bool:
    """Rewrite a JSON file with `DIGITS` digits and no indentation; False if it is damaged.

    Coefficients with all digits would be a quarter of what is published; comparisons use 1e-9.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    text = json.dumps(_rounded(content), separators=(",", ":"), sort_keys=True)
    write_atomic(path, text + "\n")
    return True


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: each if key in LEVELS else _rounded(each) for key, each in value.items()}
    return value


def copy_plugins(store: ResultStore, names: Iterable[str], target: ResultStore) -> list[Path]:
    """Copy the files of plugins (not built in) with which the grids' runs were made to `plugins/`.

    These are the versions loaded at the time (harness/store/sources.py), whatever has been edited
    since.

    Raises:
        ConfigError: a file was not kept; nothing is copied.
    """
    found: dict[str, Path] = {}
    lacking: dict[str, str] = {}
    for name in names:
        for cell in load_matrix(store, name)["cells"]:
            run = store.run_at(cell["run_id"])
            if not (run.path / "spec.json").exists():
                continue
            used = dict(run.plugins())
            for row in run.rows().values():
                used |= row.plugins or {}
            for plugin, digest in used.items():
                if path := kept_source(store.root, digest):
                    found[digest] = path
                else:
                    lacking[digest] = f"{plugin} of run {cell['run_id']} (digest {digest})"
    if lacking:
        raise ConfigError(
            f"publish --with-plugins: {store.root} has not kept the file of"
            f" {', '.join(lacking.values())}: runs made by an older version have none; publish"
            " without, and put the file beside yourself"
        )
    copied = []
    for path in found.values():
        goal = target.root / "plugins" / path.name
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, goal)
        copied.append(goal)
    return sorted(copied)


def _last_pictures(folder: Path) -> list[Path]:
    """step-SSSSSSSS-nfeN.png of the largest step for every N."""
    last: dict[str, Path] = {}
    for path in sorted(folder.glob("step-*-nfe*.png")):
        last[path.stem.rpartition("-nfe")[2]] = path
    return sorted(last.values())
