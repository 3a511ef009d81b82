"""States of Slurm jobs by squeue, which needs no accounting database, unlike sacct."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from harness.errors import HarnessError

#: states after which a job does not come back; one that is put back is PENDING again
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)


def states(jobs: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(state, reason) of each job (`12`, or `12_3` of an array) that Slurm still knows.

    Slurm forgets ended jobs after some minutes (MinJobAge).

    Raises:
        HarnessError: squeue is missing, or does not respond.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", ",".join(arrays)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"squeue does not answer: {error}") from None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise HarnessError(f"squeue does not answer: {lines[-1]}")
    rows = (line.split("|") for line in answer.stdout.splitlines())
    return {job: (state, reason) for job, state, reason in rows}


def active(state: str | None) -> bool:
    """Whether a job in this state (None: unknown to Slurm) is pending, running or requeued."""
    return state is not None and state not in ENDED
