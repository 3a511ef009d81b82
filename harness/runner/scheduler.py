"""Running a matrix: which cells owe numbers, a few at a time, several runners sharing the work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from filelock import BaseFileLock, Timeout

from harness.config.matrix import wanted
from harness.config.schema import Launch
from harness.runner import local
from harness.store.files import write_json
from harness.store.records import Measure, Request, RunSpec, State
from harness.store.store import ResultStore, Run

POLL = 0.1


@dataclass
class Outcome:
    """How a matrix ended: run ids by state, with the reasons of those that did not finish."""

    done: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


@dataclass
class Working:
    """A cell in progress here: its run, its process, and the lock that keeps others away."""

    run: Run
    handle: local.Handle
    lock: BaseFileLock


class Scheduler:
    """Works through the cells that owe numbers of a request.

    A cell is taken under an operating-system lock: runners on the same results folder share the
    work, and a runner that dies gives its cells back at once. Cells held by another runner are
    looked at again until they are done or free.

    Args:
        progress: called about ten times a second with this scheduler.
    """

    def __init__(
        self,
        store: ResultStore,
        specs: Sequence[RunSpec],
        request: Request,
        launch: Launch,
        progress: Callable[[Scheduler], None] = lambda scheduler: None,
        rerun: frozenset[State] = frozenset(),
    ) -> None:
        self.store = store
        self.specs = specs
        self.request = request
        self.launch = launch
        self.progress = progress
        self.rerun = rerun
        self.wanted = wanted(request)
        self.working: list[Working] = []
        self.elsewhere: list[Run] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run everything that is missing; returns when nothing is left to do here or elsewhere."""
        queue = deque(self._owing())
        try:
            while queue or self.working or self.elsewhere:
                while queue and len(self.working) < self.launch.slots:
                    self._take(queue.popleft())
                self._reap()
                if not queue and len(self.working) < self.launch.slots:
                    queue.extend(self._given_back())
                self.progress(self)
                time.sleep(POLL)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
            self._stop()
        return self.outcome

    def missing(self, run: Run) -> list[Measure]:
        """The numbers a run still owes this matrix."""
        return run.missing(self.wanted)

    def _owing(self) -> list[Run]:
        """Cells with missing numbers; a cell that failed is left alone unless asked for again."""
        owing = []
        for spec in self.specs:
            run = self.store.open(spec)
            if not self.missing(run):
                self.outcome.done.append(run.run_id)
                continue
            status = run.status()
            if status["state"] == State.DIVERGED and State.DIVERGED not in self.rerun:
                # deterministic: it would diverge again at the same step
                self.outcome.failed[run.run_id] = f"diverged: {status['reason']}"
                continue
            owing.append(run)
        return owing

    def _take(self, run: Run) -> None:
        lock = run.lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.elsewhere.append(run)
            return
        if not self.missing(run):  # somebody else finished it meanwhile
            lock.release()
            self.outcome.done.append(run.run_id)
            return
        write_json(run.path / "request.json", asdict(self.request))
        run.set_status(State.QUEUED)
        self.working.append(Working(run, local.start(run, self.launch), lock))

    def _reap(self) -> None:
        for work in list(self.working):
            code = work.handle.poll()
            if code is None:
                continue
            self.working.remove(work)
            self._close(work, code)
            work.lock.release()

    def _close(self, work: Working, code: int) -> None:
        run = work.run
        status = run.status()
        if code == 0 and not self.missing(run):
            self.outcome.done.append(run.run_id)
            self.outcome.fresh.append(run.run_id)
            return
        if status["state"] in (State.RUNNING, State.QUEUED):  # it could not say how it ended
            died = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = f"the worker died with {died}; see {run.path / 'worker.log'}"
            run.set_status(State.FAILED, reason, step=status.get("step", 0))
            status = run.status()
        self.outcome.failed[run.run_id] = f"{status['state']}: {status['reason']}"

    def _given_back(self) -> list[Run]:
        """Cells that another runner has let go of."""
        free = [run for run in self.elsewhere if not run.is_locked()]
        self.elsewhere = [run for run in self.elsewhere if run not in free]
        return free

    def _stop(self) -> None:
        """Ask the cells to save and end; a second interrupt kills them."""
        try:
            for work in self.working:
                work.handle.stop()
            while any(work.handle.poll() is None for work in self.working):
                time.sleep(POLL)
        except KeyboardInterrupt:
            for work in self.working:
                work.handle.kill()
        for work in self.working:
            work.lock.release()
