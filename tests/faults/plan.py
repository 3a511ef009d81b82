"""Where a run can be struck: every kind of write, rename and removal that it makes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Fault = dict[str, Any]

#: who comes to what event on which file; the bytes that a death in mid-write leaves out
RUNNER = [
    ("open", r"matrix\.json", 0),
    ("fsync", r"matrix\.json", 50),
    ("fsync", r"spec\.json", 50),
    ("rename", r"spec\.json", 0),
    ("open", r"runs/[^/]+/\.lease$", 0),
    ("write", r"runs/[^/]+/\.lease$", 9999),  # an empty lease, which names no holder
    ("write", r"runs/[^/]+/\.lease$", 9),
    ("remove", r"runs/[^/]+/\.lease$", 0),
    ("fsync", r"request\.json", 30),
    ("rename", r"request\.json", 0),
    ("rename", r"status\.json", 0),
    ("start", r"runs/", 0),  # with two processes: between the first and the second
    ("rename", r"tables/.*leaderboard\.txt", 0),
    ("fsync", r"tables/.*speed\.csv", 5),
    ("rename", r"tables/.*coverage\.csv", 0),
]
WORKER = [
    ("open", r"artifacts/.*\.lease$", 0),
    ("write", r"artifacts/.*\.lease$", 9999),
    ("fsync", r"artifacts/.*safetensors", 100),
    ("rename", r"artifacts/.*safetensors", 0),
    ("fsync", r"artifacts/.*json", 20),
    ("rename", r"artifacts/.*json", 0),
    ("remove", r"artifacts/.*\.lease$", 0),
    ("fsync", r"provenance\.json", 10),
    ("rename", r"coefficients\.json", 0),
    ("fsync", r"train\.jsonl", 7),
    ("fsync", r"train\.jsonl", 0),
    ("fsync", r"checkpoints/.*network", 1000),
    ("fsync", r"checkpoints/.*optimizer", 1),
    ("fsync", r"checkpoints/.*state\.json", 3),
    ("rename", r"checkpoints/step-\d+$", 0),
    ("fsync", r"ema/", 10),
    ("rename", r"ema/", 0),
    ("fsync", r"eval\.jsonl", 1),
    ("fsync", r"eval\.jsonl", 60),
    ("fsync", r"eval\.jsonl", 0),
    ("open", r"eval\.jsonl", 0),
    ("fsync", r"status\.json", 20),
    ("rename", r"status\.json", 0),
]
EVERYWHERE = [(r"runner", *place) for place in RUNNER] + [
    (r"worker|rank 0", *place) for place in WORKER
]


def draw(random: random.Random, place: tuple[str, str, str, int]) -> Fault:
    """A fault at a place: at which time, and whether one process dies, its group, or is asked."""
    who, event, path, tear = place
    if who == "runner":
        what = random.choice(["SIGKILL"] * 4 + ["SIGTERM"])
        nth = random.randint(1, 2)
    else:
        what = random.choice(["SIGKILL"] * 8 + ["group"] * 3 + ["SIGTERM"])
        nth = random.randint(1, 4) if "artifacts" not in path else 1
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
