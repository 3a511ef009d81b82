"""Everything that is to be known of this project on a GPU, in one command.

    make gpu                                   # or: python benchmarks/gpu.py
    python benchmarks/gpu.py --only 'cifar10*'  # some parts
    python benchmarks/gpu.py --tiny            # a rehearsal at small size, also on a CPU

Each part is a process of its own with a time limit, and writes what it has found as it goes into
gpu.json; a second start does what is missing. Parts of one line of `SCHEDULE` run at the same time,
with a lock that keeps their timings apart; those whose speed the host can limit run alone, since
another one that compiles meanwhile takes the host from them.
gpu.md is the same for people. No network is needed: torch, this project and its dependencies.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).parents[1]
#: part -> seconds that it may take; lines run one after the other
SCHEDULE: list[dict[str, int]] = [
    {"ceilings": 60},
    {"tests": 150},
    {"cifar10 bf16 channels_last compile": 180},
    {"cifar10 bf16": 60},
    {"evaluation": 90, "cifar10 tf32": 90, "cifar10 fp32": 90},
    {"imagenet64 bf16 channels_last compile": 200},
    {"matrix": 300},
]


def main() -> int:
    """Run what is missing; exit code 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    out = ROOT / "build" / "gpu"
    parser.add_argument("--out", type=Path, default=out, help="where gpu.json lies: build/gpu")
    parser.add_argument("--only", metavar="A,B", help="parts; * stands for any letters")
    parser.add_argument("--limit", type=float, default=570, help="seconds for all, by default 570")
    parser.add_argument("--commit", help="of a copy that has no repository of its own")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on whatever there is")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path, end = args.out / "gpu.json", time.monotonic() + args.limit
    for line in SCHEDULE:
        missing = {
            name: seconds
            for name, seconds in line.items()
            if _chosen(name, args.only) and not _part(path, name).get("done")
        }
        left = end - time.monotonic()
        if not missing or left < 10:
            continue
        began = time.monotonic()
        started = {name: _start(name, path, args.tiny) for name in missing}
        for name, process in started.items():
            _await(name, process, min(began + missing[name], end), path)
    if args.commit:
        note(path, "ceilings", commit=args.commit)
    text = markdown(read(path))
    (args.out / "gpu.md").write_text(text)
    print(text)
    parts = read(path).get("parts", {})
    return 0 if all(part.get("done") for part in parts.values()) else 1


def read(path: Path) -> dict[str, Any]:
    """What was found so far."""
    return json.loads(path.read_text()) if path.exists() else {}


def note(path: Path, part: str, **found: Any) -> None:
    """Add to what is known of a part; several processes may do so at once."""
    with locked(path.with_suffix(".lock")):
        content = read(path)
        content.setdefault("parts", {}).setdefault(part, {}).update(found)
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(content, indent=1) + "\n")
        aside.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within, no other process holds the same lock."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _chosen(name: str, only: str | None) -> bool:
    return only is None or any(fnmatch(name, pattern) for pattern in only.split(","))


def _part(path: Path, name: str) -> dict[str, Any]:
    return read(path).get("parts", {}).get(name, {})


def _start(name: str, path: Path, tiny: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    return subprocess.Popen(
        command + ["--tiny"] * tiny,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _await(name: str, process: subprocess.Popen[str], deadline: float, path: Path) -> None:
    """Wait for a part; one that is late is ended and keeps what it has written."""
    log = path.parent / "gpu.log"
    try:
        out, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        error = None if process.returncode == 0 else f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        error = "ended at its time limit"
    note(path, name, done=error is None, error=error)
    with log.open("a") as file:
        file.write(f"== {name}: {error or 'done'}\n{out}\n")
    print(f"{name}: {error or 'done'}", *[out[-1500:]] * bool(error), flush=True)


def markdown(found: dict[str, Any]) -> str:
    """The tables of gpu.json, for people."""
    parts = found.get("parts", {})
    first = parts.get("ceilings", {})
    facts = first.pop("facts", {}) | {"commit": first.pop("commit", None)}
    sections = ["# On a GPU", "\n".join(f"- {key}: {value}" for key, value in facts.items())]
    networks = [part for part in parts.values() if "passes" in part]
    for title, kind in (
        ("One pass", "passes"),
        ("A step of CTM", "steps"),
        ("Where the GPU's time goes", "kernels"),
    ):
        rows = [row for part in networks for row in part.get(kind, [])]
        sections += [f"## {title}", tabulate(rows, "keys", "github", floatfmt=".3g")]
    for name, part in parts.items():
        if "passes" not in part:
            kept = {key: value for key, value in part.items() if key != "done" and value}
            sections += [f"## {name}", tabulate(kept.items(), tablefmt="github", floatfmt=".4g")]
    failed = [f"- {name}: {part['error']}" for name, part in parts.items() if part.get("error")]
    return "\n\n".join([*sections, *(["## Not done", *failed] if failed else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
