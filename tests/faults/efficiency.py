"""`python -m tests.faults.efficiency`: what the runner costs, on many short cells.

A worker is busy from its start to its exit. The rest of a slot's time is the runner's: noticing the
exit, writing status, taking the next lease, starting the next worker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.runner.scheduler import Scheduler
from harness.store.store import ResultStore
from tests.faults.campaign import GRID


class Clocked(Scheduler):
    """Notes when a cell was taken and closed, and when its worker lived."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.taken: dict[str, float] = {}
        self.cells: list[float] = []
        self.workers: list[float] = []

    def _take(self, run: Any, lease: Any) -> None:
        self.taken[run.run_id] = time.monotonic()
        super()._take(run, lease)
        pid, started = self.working[-1].watched.handle.group, time.monotonic()

        def wait() -> None:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # left for the runner to collect
            self.workers.append(time.monotonic() - started)

        threading.Thread(target=wait, daemon=True).start()

    def _close(self, work: Any) -> None:
        super()._close(work)
        self.cells.append(time.monotonic() - self.taken[work.run.run_id])


def main() -> None:
    """Run the cells; print efficiency and overhead."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.efficiency", description=__doc__)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--slots", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="efficiency-") as folder:
        text = yaml.safe_load(GRID)
        text["axes"]["precond"], text["axes"]["seed"] = ["ctm"], list(range(args.cells))
        text |= {"budgets": [10], "exclude": [], "results": folder}
        text["launch"]["slots"] = args.slots
        path = Path(folder) / "grid.yaml"
        path.write_text(yaml.safe_dump(text))
        matrix = expand(load_grid(path))
        store = ResultStore(folder).prepare()
        scheduler = Clocked(store, matrix.specs, matrix.request, matrix.grid.launch)
        started = time.monotonic()
        outcome = scheduler.run()
        wall = time.monotonic() - started
    assert len(outcome.done) == args.cells, outcome
    busy = sum(scheduler.workers)
    overhead = (sum(scheduler.cells) - busy) / args.cells
    print(
        f"{args.cells} cells, {args.slots} slots: {wall:.1f} s, workers busy {busy:.1f} s,"
        f" efficiency {busy / (args.slots * wall):.1%}\n"
        f"a cell {statistics.mean(scheduler.cells):.2f} s, of which the runner's {overhead:.3f} s"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
