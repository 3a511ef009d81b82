"""What a results folder says, less clocks: to be equal however often its processes were killed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

SECONDS = re.compile(r"\d+\.\d s\b")


@dataclass
class Outcome:
    """Rows by run and key, digests of weights and samples, tables; and what is wrong by itself."""

    rows: dict[tuple[Any, ...], float] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    wrong: list[str] = field(default_factory=list)

    def lost(self, other: Outcome) -> int:
        """Rows of `other` that are not here, or not with the same value."""
        return sum(self.rows.get(key) != value for key, value in other.rows.items())

    def differences(self, other: Outcome) -> list[str]:
        """What differs, a sentence each; empty if nothing does."""
        said = list(self.wrong)
        if lost := self.lost(other):
            said.append(f"{lost} of {len(other.rows)} rows are lost or differ")
        if more := set(self.rows) - set(other.rows):
            said.append(f"{len(more)} rows were not asked for")
        if self.duplicates:
            said.append(f"{self.duplicates} rows are there twice")
        for what in ("weights", "tables"):
            mine, theirs = getattr(self, what), getattr(other, what)
            names = sorted(set(mine) | set(theirs))
            differ = [name for name in names if mine.get(name) != theirs.get(name)]
            if differ:
                said.append(f"{what} differ: {', '.join(differ)}")
        return said


def read(results: Path) -> Outcome:
    """Read a results folder with plain means: what is on disk, not what the harness makes of it."""
    found = Outcome()
    for run in sorted((results / "runs").iterdir()):
        clock: dict[int, float] = {}
        for line in (run / "eval.jsonl").read_text().splitlines():
            row = json.loads(line)
            key = (run.name, *(row[k] for k in ("step", "nfe", "metric", "extractor", "n")))
            found.duplicates += key in found.rows
            found.rows[key] = row["value"]
            if clock.setdefault(row["step"], row["seconds"]) != row["seconds"]:
                found.wrong.append(f"{run.name}: two clocks at step {row['step']}")
        seconds = [clock[step] for step in sorted(clock)]
        if seconds != sorted(set(seconds)) or seconds[0] <= 0:
            found.wrong.append(f"{run.name}: the clock at its budgets is {seconds}")
        for path in sorted([*run.glob("ema/step-*"), *run.glob("samples/step-*")]):
            found.weights[f"{run.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    found.tables = {
        str(path.relative_to(results)): _without_seconds(path)
        for path in sorted(results.glob("tables/*/*.*"))
        if path.suffix != ".json"
    }
    found.wrong += [f"left behind: {path}" for path in results.rglob(".*.tmp")]
    return found


def _without_seconds(path: Path) -> str:
    if path.suffix != ".csv":
        return SECONDS.sub("# s", path.read_text())
    frame = pd.read_csv(path)
    return frame.drop(columns=[name for name in frame if "seconds" in name]).to_csv()
