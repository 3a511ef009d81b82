"""Progress of a grid on a terminal or in a log."""

from __future__ import annotations

import sys
import time

from harness.config.matrix import Matrix
from harness.runner.scheduler import Scheduler
from harness.runner.slurm import Slurm

#: seconds between two lines of a log that say what is being done
EVERY = 30.0


class Progress:
    """A progress bar over all training steps on a terminal; otherwise a line per finished cell.

    Other tasks of cells, such as calibration, are shown with their progress and time left.
    """

    def __init__(self, matrix: Matrix) -> None:
        from tqdm import tqdm

        self.last = max(matrix.request.budgets)
        self.cells = len(matrix.specs)
        self.told: set[str] = set()
        self.said = time.monotonic()
        self.bar = tqdm(
            total=self.last * self.cells,
            unit="step",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, runner: Scheduler | Slurm) -> None:
        """Show the current progress; called about ten times a second."""
        outcome = runner.outcome
        ended = len(outcome.done) + len(outcome.failed)
        if not self.bar.disable:
            found = [work.run.known_status() for work in runner.working]
            self.bar.n = ended * self.last + sum(status.get("step", 0) for status in found)
            doing = next(filter(None, (status.get("detail") for status in found)), runner.now)
            self.bar.set_postfix_str(f"{ended}/{self.cells} cells; {doing}", refresh=True)
            return
        for run_id in [*outcome.fresh, *outcome.failed]:
            if run_id not in self.told:
                self.told.add(run_id)
                how = outcome.failed.get(run_id, "done")
                print(f"[{ended}/{self.cells}] {run_id}: {how}", flush=True)
        if time.monotonic() - self.said > EVERY:
            self.said = time.monotonic()
            for work in runner.working:
                status = work.run.known_status()
                doing = status.get("detail") or f"step {status.get('step', 0):,} of {self.last:,}"
                print(f"{time.strftime('%H:%M:%S')} {work.run.run_id}: {doing}", flush=True)
