"""Run the unfinished cells of a matrix, several at a time; several runners may share the work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from filelock import SoftFileLease
from tqdm import tqdm

from harness.config.matrix import wanted
from harness.config.schema import Launch
from harness.errors import HarnessError, file_sentence
from harness.runner import devices
from harness.runner.local import Node
from harness.runner.watch import Watched
from harness.store.lease import taken
from harness.store.records import Measure, Request, RunSpec, State
from harness.store.run import Run
from harness.store.store import ResultStore

POLL = 0.1
ASK_AGAIN = 1.0  # seconds between checks of cells held by another runner


@dataclass
class Outcome:
    """Result of running a matrix: ids of runs done, done now (`fresh`), and failed with reason."""

    done: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def owing(
    store: ResultStore,
    specs: Sequence[RunSpec],
    request: Request,
    rerun: frozenset[State],
    outcome: Outcome,
) -> list[Run]:
    """Runs that lack measurements and may be started; the others are recorded in `outcome`."""
    owing = []
    for spec in specs:
        run = store.run_at(spec.run_id)
        try:
            store.open(spec)
            if not run.missing(wanted(request, spec)):
                outcome.done.append(run.run_id)
                continue
            status = run.known_status()
        except (OSError, HarnessError) as error:  # damaged: its neighbours can do without it
            outcome.failed[run.run_id] = f"failed: {told(error)}"
            continue
        if status["state"] == State.DIVERGED and State.DIVERGED not in rerun:
            # deterministic: it would diverge again at the same step
            outcome.failed[run.run_id] = f"diverged: {status.get('reason', '')}"
            continue
        owing.append(run)
    return owing


def told(error: OSError | HarnessError) -> str:
    """A sentence for an error in reading or writing a run's files."""
    return file_sentence(error) if isinstance(error, OSError) else str(error)


@dataclass
class Working:
    """A cell in progress in this runner: its processes, slot, and lease."""

    run: Run
    watched: Watched
    slot: int
    lease: SoftFileLease


class Scheduler:
    """Runs all cells that lack measurements of a request.

    A cell is run under a lease, so that runners on the same results folder, on one machine or
    several, share the work, and cells of a runner that died are taken over. Cells held by another
    runner are polled until they are done or free.

    Args:
        progress: called about ten times a second with this scheduler.
        node: this machine, if cells span several machines: the first of them.
    """

    def __init__(
        self,
        store: ResultStore,
        specs: Sequence[RunSpec],
        request: Request,
        launch: Launch,
        progress: Callable[[Scheduler], None] = lambda scheduler: None,
        rerun: frozenset[State] = frozenset(),
        node: Node | None = None,
    ) -> None:
        self.store = store
        self.specs = specs
        self.request = request
        self.launch = launch
        self.progress = progress
        self.rerun = rerun
        self.node = node
        self.working: list[Working] = []
        self.elsewhere: list[tuple[Run, SoftFileLease]] = []
        self.outcome = Outcome()
        self._shares = devices.shares(launch, devices.visible())
        self._free = list(range(launch.slots))
        self._asked = 0.0

    def run(self) -> Outcome:
        """Run all unfinished cells; return when none is left, here or in other runners."""
        queue = deque(owing(self.store, self.specs, self.request, self.rerun, self.outcome))
        try:
            while queue or self.working or self.elsewhere:
                while queue and self._free:
                    run = queue.popleft()
                    self._take(run, run.lease())
                self._reap()
                if not queue and self._free:
                    self._ask_again()
                self.progress(self)
                time.sleep(POLL)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
            self._stop()
        return self.outcome

    @property
    def now(self) -> str:
        """Ids of the runs in progress, for display."""
        return ", ".join(work.run.run_id for work in self.working)

    def missing(self, run: Run) -> list[Measure]:
        """The measures of the request that a run lacks."""
        return run.missing(wanted(self.request, run.spec))

    def _take(self, run: Run, lease: SoftFileLease) -> None:
        """Start a run, or add it to `elsewhere` if another runner holds its lease."""
        try:
            if not taken(lease):
                self.elsewhere.append((run, lease))
                return
            if not self.missing(run):  # somebody else finished it meanwhile
                lease.release()
                self.outcome.done.append(run.run_id)
                return
            run.write_request(self.request)
            watched = Watched(run, self.launch, self._shares[self._free[0]], self.node)
        except (OSError, HarnessError) as error:
            self._lost(run, lease, error)
            return
        self.working.append(Working(run, watched, self._free.pop(0), lease))

    def _reap(self) -> None:
        for work in list(self.working):
            try:
                if work.lease.compromise is not None:  # we were thought dead: it is theirs now
                    work.watched.kill()
                    self.elsewhere.append((work.run, work.run.lease()))
                elif work.watched.poll():
                    self._close(work)
                else:
                    continue
            except (OSError, HarnessError) as error:
                work.watched.kill()
                self._lost(work.run, work.lease, error)
            self.working.remove(work)
            self._free.append(work.slot)

    def _close(self, work: Working) -> None:
        run = work.run
        if self.missing(run):
            status = run.known_status()
            self.outcome.failed[run.run_id] = f"{status['state']}: {status.get('reason', '')}"
        else:
            self.outcome.done.append(run.run_id)
            self.outcome.fresh.append(run.run_id)
        work.lease.release()

    def _lost(self, run: Run, lease: SoftFileLease, error: OSError | HarnessError) -> None:
        """Record a run whose files cannot be written (a full disk) or read; others continue."""
        self.outcome.failed[run.run_id] = f"failed: {told(error)}"
        with contextlib.suppress(OSError):
            lease.release(force=True)

    def _ask_again(self) -> None:
        """Try to take cells that another runner held."""
        if time.monotonic() - self._asked < ASK_AGAIN:
            return
        self._asked = time.monotonic()
        waiting, self.elsewhere = self.elsewhere, []
        for place, (run, lease) in enumerate(waiting):
            if not self._free:
                self.elsewhere += waiting[place:]
                return
            self._take(run, lease)

    def _stop(self) -> None:
        """Ask running cells to save and exit; a second interrupt kills them."""
        left = list(self.working)
        try:
            if left:
                tqdm.write("saving; a second Ctrl-C kills", file=sys.stderr)
            for work in self.working:
                work.watched.stop()
            while left := [work for work in left if not work.watched.poll()]:
                time.sleep(POLL)
        except KeyboardInterrupt:
            for work in left:
                work.watched.kill()
                work.watched.poll()
        for work in self.working:
            work.lease.release()
