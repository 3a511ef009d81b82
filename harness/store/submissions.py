"""What was handed to a cluster, on disk: one folder a submission, results/slurm/<time>-<grid>/.

order.json says what the jobs are to do, jobs.json which job has which run, and each job tells its
own <job>.events.jsonl when it starts, is put back and ends. Every file has one writer.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from harness.home import with_home
from harness.store.files import append_line, read_json, read_lines, write_json


class Submission:
    """The folder of one submission; the cluster's scripts and logs lie there, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, root: Path, grid: str, order: dict[str, Any]) -> Submission:
        """A new folder under a results folder, with its order written."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{grid}"
        names = itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2)))
        folder = next(path for n in names if not (path := root.absolute() / "slurm" / n).exists())
        write_json(folder / "order.json", order)
        return cls(folder)

    @property
    def root(self) -> Path:
        """The results folder this submission works on."""
        return self.folder.parent.parent

    def order(self) -> dict[str, Any]:
        """What its jobs are to do: request, launch, states to try again."""
        order: dict[str, Any] = with_home(read_json(self.folder / "order.json"))
        return order

    def jobs(self) -> dict[str, str]:
        """Run id -> job id; empty while it is being submitted."""
        path = self.folder / "jobs.json"
        jobs: dict[str, str] = read_json(path) if path.exists() else {}
        return jobs

    def set_jobs(self, jobs: dict[str, str]) -> None:
        """Write down which job has which run."""
        write_json(self.folder / "jobs.json", jobs)

    def tell(self, job: str, event: str, **more: Any) -> None:
        """Note that a job started, was put back into the queue, or ended."""
        record = {"event": event, "time": time.time(), **more}
        append_line(self.folder / f"{job}.events.jsonl", record)

    def events(self, job: str) -> list[dict[str, Any]]:
        """What a job told of itself, oldest first."""
        return list(read_lines(self.folder / f"{job}.events.jsonl"))

    def log(self, job: str) -> Path:
        """What a job printed outside its cell: for when it did not get that far."""
        return self.folder / f"{job}_0_log.out"


def submissions(root: Path) -> list[Submission]:
    """All submissions of a results folder, newest first."""
    return [Submission(path.parent) for path in sorted(root.glob("slurm/*/order.json"))[::-1]]


def newest_jobs(root: Path) -> dict[str, tuple[Submission, str]]:
    """Run id -> the last submission it was part of, and its job there."""
    found: dict[str, tuple[Submission, str]] = {}
    for submission in submissions(root):
        for run_id, job in submission.jobs().items():
            found.setdefault(run_id, (submission, job))
    return found
