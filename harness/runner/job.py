"""The code that runs inside a Slurm job: one cell, until it is done or the job must end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from harness.config.schema import Launch
from harness.errors import HarnessError
from harness.registry import registry
from harness.runner import devices, meeting, squeue
from harness.runner.following import Following
from harness.runner.local import Node
from harness.runner.scheduler import POLL, Outcome, Scheduler
from harness.store.lease import PATIENCE
from harness.store.records import Request, State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.submissions import Submission

SAVING = 0.8  # fraction of the grace period for saving; the rest is for requeueing the job


@dataclass(frozen=True)
class CellJob:
    """The callable that submitit runs on each node of a job. Its pickle holds two strings only.

    Args:
        folder: folder of the submission.
        run_id: the cell.
    """

    folder: str
    run_id: str

    def __call__(self) -> str:
        """Run the cell and return its state.

        Raises:
            HarnessError: the cell did not finish; the cluster then shows the job as failed.
        """
        import submitit

        here = submitit.JobEnvironment()
        start = f"{here.job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        submission = Submission(Path(self.folder))
        order = submission.order()
        launch = Launch(**order["launch"])
        address = meeting.address() if launch.nodes > 1 else "127.0.0.1"
        node = Node(here.node, address, job=start)
        run = ResultStore(submission.root).run_at(self.run_id)
        if node.rank > 0:
            return _follow(run, launch, node)
        try:
            return _lead(submission, run, launch, node, here.job_id)
        finally:
            if launch.nodes > 1:
                meeting.dismiss(run, node.job)

    def checkpoint(self) -> Any:
        """Requeue the same callable (submitit's protocol); the cell resumes from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Notice:
    """Handles Slurm's warning (SIGUSR2) before the time limit or a preemption.

    The cell is then asked to save, and killed if that takes too long, because a job that exceeds
    its time limit is not requeued.
    """

    def __init__(self, grace: float) -> None:
        self.given = False
        self.grace = grace
        self._since = time.monotonic()
        self.before = signal.signal(signal.SIGUSR2, self._give)
        signal.signal(signal.SIGALRM, signal.default_int_handler)

    def check(self, scheduler: Scheduler) -> None:
        """Check for the warning; called by the scheduler as its `progress`.

        Raises:
            KeyboardInterrupt: the warning came; raised again by SIGALRM when time to save is over.
            HarnessError: another runner has held this cell for a long time.
        """
        if self.given:
            signal.setitimer(signal.ITIMER_REAL, SAVING * self.grace * 60)
            raise KeyboardInterrupt
        if scheduler.elsewhere and time.monotonic() - self._since > 2 * PATIENCE:
            raise HarnessError("another runner works on this cell; this job is not needed")

    def close(self) -> Callable[[int, FrameType | None], Any] | None:
        """Stop the timer, and restore and return the previous SIGUSR2 handler (submitit's)."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGUSR2, self.before)
        return self.before if callable(self.before) else None

    def _give(self, *_: object) -> None:
        self.given = True


def _lead(submission: Submission, run: Run, launch: Launch, node: Node, job: str) -> str:
    """Run a cell on its first machine, and requeue the job if it was warned or preempted."""
    order = submission.order()
    request = Request(**order["request"])
    for plugin in request.plugins:
        registry.load_file(plugin)
    rerun = frozenset(State(name) for name in order["rerun"])
    notice = Notice(launch.grace)
    submission.tell(job, "started")
    store = ResultStore(submission.root)
    try:
        outcome = Scheduler(store, [run.spec], request, launch, notice.check, rerun, node).run()
    finally:
        pass_on = notice.close()
    status = run.known_status()
    if not outcome.done and (notice.given or _preempted(job, status["state"])) and pass_on:
        reason = f"job {job} had to go and is in the queue again"
        run.set_status(State.QUEUED, reason, step=status.get("step", 0))
        try:
            pass_on(signal.SIGUSR2, None)  # asks for checkpoint(), puts the job back, ends us
        except SystemExit:
            submission.tell(job, "requeued", step=status.get("step", 0))
            raise
        except RuntimeError:
            reason = f"job {job} ran out of its time too often (launch.slurm.requeues)"
            _stays(run, State.TIMEOUT, reason, outcome)
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"job {job} could not go back into the queue: {error}"
            _stays(run, State.INTERRUPTED, reason, outcome)
    state = run.known_status()["state"]
    submission.tell(job, "ended", state=state)
    if outcome.failed:
        raise HarnessError(outcome.failed[run.run_id])
    return str(state)


def _stays(run: Run, state: State, reason: str, outcome: Outcome) -> None:
    run.set_status(state, reason, step=run.known_status().get("step", 0))
    outcome.failed[run.run_id] = f"{state}: {reason}"


def _preempted(job: str, state: str) -> bool:
    """Whether the cell was interrupted by a preemption, not by cancelling or requeueing by hand.

    If Slurm does not warn jobs (preempt_send_user_signal), a preemption begins with a SIGTERM to
    every process while the job is RUNNING; one that is cancelled or requeued is COMPLETING.
    """
    if state != State.INTERRUPTED:
        return False
    try:
        return squeue.states([job]).get(job, ("", ""))[0] == "RUNNING"
    except HarnessError:
        return False


def _follow(run: Run, launch: Launch, node: Node) -> str:
    """Run a cell on a machine that is not its first."""
    following = Following(run, launch, devices.shares(launch, devices.visible())[0], node)
    while not following.poll():
        time.sleep(POLL)
    return "followed"
