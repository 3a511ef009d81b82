"""A cell on several machines: the runner on all but the first of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.config.schema import Launch
from harness.runner import local, meeting
from harness.runner.watch import LOOK, death
from harness.store.run import Run


class Following:
    """Starts this machine's processes for every attempt of the first machine, and ends with it.

    The first machine applies limits and retries and sets the state of the cell. A process that dies
    here is reported to it by a note in the run's folder.
    """

    def __init__(self, run: Run, launch: Launch, gpus: Sequence[str], node: local.Node) -> None:
        self.run = run
        self.launch = launch
        self.gpus = list(gpus)
        self.node = node
        self.handle: local.Handle | None = None
        self._looked = 0.0
        self._leave: float | None = None

    def poll(self) -> bool:
        """Whether the first machine has ended the cell and the processes here have exited."""
        if self.handle is not None and (ended := self.handle.poll()) is not None:
            self._tell(ended)
            self.handle = None
        now = time.monotonic()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        called = meeting.called(self.run, self.node)
        if called is None or (called == self.node and not self._leave):
            return False
        if self.handle is not None:  # the others have given this attempt up
            self._leave = self._leave or now + local.FAREWELL
            if now > self._leave:
                self.handle.kill()
            return False
        if called.attempt == meeting.OVER:
            return True
        self.node, self._leave = called, None
        self.handle = local.start(self.run, self.launch, self.gpus, self.node)
        return False

    def kill(self) -> None:
        """Kill the processes."""
        if self.handle is not None:
            self.handle.kill()

    def _tell(self, ended: local.Exit) -> None:
        """Write the failure note of a process that died without writing one."""
        if ended.first is None or self._leave:
            return
        note = self.run.failure(self.run.path / f"failure-{ended.first}.json")
        if ended.codes[ended.first] < 0 or not note or note.get("attempt") != self.node.attempt:
            verdict = death(self.launch, ended, "its worker.log")
            self.run.fail(
                *(ended.first, verdict.state, verdict.reason, verdict.cause),
                attempt=self.node.attempt,
            )
