"""Where a run can be struck: every kind of write, rename and removal that it makes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Fault = dict[str, Any]
#: who, event, path, tear, how often
Place = tuple[str, str, str, int, int]

#: event, file, the bytes that a death in mid-write leaves out; and how often it comes at least in
#: the life of a process that gets there
RUNNER = [
    ("open", r"matrix\.json", 0, 1),
    ("fsync", r"matrix\.json", 50, 1),
    ("fsync", r"spec\.json", 50, 2),
    ("rename", r"spec\.json", 0, 2),
    ("open", r"runs/[^/]+/\.lease$", 0, 2),
    ("write", r"runs/[^/]+/\.lease$", 9999, 2),  # an empty lease, which names no holder
    ("write", r"runs/[^/]+/\.lease$", 9, 2),
    ("remove", r"runs/[^/]+/\.lease$", 0, 2),
    ("fsync", r"request\.json", 30, 2),
    ("rename", r"request\.json", 0, 2),
    ("rename", r"status\.json", 0, 2),
    ("start", r"runs/", 0, 2),  # with two processes: between the first and the second
    ("rename", r"tables/.*leaderboard\.txt", 0, 1),
    ("fsync", r"tables/.*speed\.csv", 5, 1),
    ("rename", r"tables/.*coverage\.csv", 0, 1),
]
WORKER = [
    ("open", r"artifacts/.*\.lease$", 0, 1),
    ("write", r"artifacts/.*\.lease$", 9999, 1),
    ("fsync", r"artifacts/.*safetensors", 100, 2),
    ("rename", r"artifacts/.*safetensors", 0, 2),
    ("fsync", r"artifacts/.*json", 20, 2),
    ("rename", r"artifacts/.*json", 0, 2),
    ("remove", r"artifacts/.*\.lease$", 0, 1),
    ("fsync", r"provenance\.json", 10, 1),
    ("rename", r"coefficients\.json", 0, 1),
    ("fsync", r"train\.jsonl", 7, 4),
    ("fsync", r"train\.jsonl", 0, 4),
    ("fsync", r"checkpoints/.*network", 1000, 4),
    ("fsync", r"checkpoints/.*optimizer", 1, 4),
    ("fsync", r"checkpoints/.*state\.json", 3, 4),
    ("rename", r"checkpoints/step-\d+$", 0, 4),
    ("fsync", r"ema/", 10, 4),
    ("rename", r"ema/", 0, 4),
    ("fsync", r"eval\.jsonl", 1, 4),
    ("fsync", r"eval\.jsonl", 60, 4),
    ("fsync", r"eval\.jsonl", 0, 4),
    ("open", r"eval\.jsonl", 0, 4),
    ("fsync", r"status\.json", 20, 4),
    ("rename", r"status\.json", 0, 4),
]
EVERYWHERE = [(r"runner", *place) for place in RUNNER] + [
    (r"worker|rank 0", *place) for place in WORKER
]


def draw(random: random.Random, place: Place) -> Fault:
    """A fault at a place: at which time, and whether one process dies, its group, or is asked."""
    who, event, path, tear, often = place
    whole = ["group"] * 3 if who != "runner" else []
    what = random.choice(["SIGKILL"] * 8 + whole + ["SIGTERM"])
    nth = random.randint(1, often)
    return {"who": who, "event": event, "path": path, "tear": tear, "what": what, "nth": nth}


def write(folder: Path, results: Path, faults: list[Fault], **more: Any) -> dict[str, str]:
    """Write a plan for tests/faults/inject; return the environment in which it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"folder": str(folder), "results": str(results), "faults": faults, **more}
    (folder / "plan.json").write_text(json.dumps(plan))
    inject = Path(__file__).parent / "inject"
    return {
        "FAULTS": str(folder / "plan.json"),
        "PYTHONPATH": f"{inject}:{Path(__file__).parents[2]}",
    }


def struck(folder: Path) -> list[str]:
    """What happened of a plan, a line a fault."""
    return [path.read_text().strip() for path in sorted(folder.glob("[0-9]*"))]
