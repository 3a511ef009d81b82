"""Submissions to Slurm on disk: a folder results/slurm/<time>-<grid>/ for each.

order.json contains the task of the jobs, jobs.json the job of each run, and each job records in its
own <job>.events.jsonl when it starts, is requeued and ends. Every file has a single writer.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from harness.home import with_home
from harness.store.files import append_line, read_json, read_lines, write_json


class Submission:
    """The folder of one submission, which also has the cluster's scripts and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, root: Path, grid: str, order: dict[str, Any]) -> Submission:
        """Create a new folder in a results folder and write its order.json."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{grid}"
        names = itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2)))
        folder = next(path for n in names if not (path := root.absolute() / "slurm" / n).exists())
        write_json(folder / "order.json", order)
        return cls(folder)

    @property
    def root(self) -> Path:
        """The results folder of this submission."""
        return self.folder.parent.parent

    def order(self) -> dict[str, Any]:
        """The task of its jobs: request, launch, states to rerun."""
        order: dict[str, Any] = with_home(read_json(self.folder / "order.json"))
        return order

    def jobs(self) -> dict[str, str]:
        """Run id -> job id; empty until the jobs are submitted."""
        path = self.folder / "jobs.json"
        jobs: dict[str, str] = read_json(path) if path.exists() else {}
        return jobs

    def set_jobs(self, jobs: dict[str, str]) -> None:
        """Write the job id of each run."""
        write_json(self.folder / "jobs.json", jobs)

    def tell(self, job: str, event: str, **more: Any) -> None:
        """Record that a job started, was requeued, or ended."""
        record = {"event": event, "time": time.time(), **more}
        append_line(self.folder / f"{job}.events.jsonl", record)

    def events(self, job: str) -> list[dict[str, Any]]:
        """Recorded events of a job, oldest first."""
        return list(read_lines(self.folder / f"{job}.events.jsonl"))

    def log(self, job: str) -> Path:
        """Path of the job's own log, for failures before the worker starts."""
        return self.folder / f"{job}_0_log.out"


def submissions(root: Path) -> list[Submission]:
    """All submissions of a results folder, newest first."""
    return [Submission(path.parent) for path in sorted(root.glob("slurm/*/order.json"))[::-1]]


def newest_jobs(root: Path) -> dict[str, tuple[Submission, str]]:
    """Run id -> (newest submission that contains it, job id in that submission)."""
    found: dict[str, tuple[Submission, str]] = {}
    for submission in submissions(root):
        for run_id, job in submission.jobs().items():
            found.setdefault(run_id, (submission, job))
    return found
