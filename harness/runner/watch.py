"""Supervision of one cell: time limit, heartbeat, retries, and smaller batches if out of memory."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config.matrix import wanted
from harness.config.schema import Launch
from harness.runner import local, meeting
from harness.store.records import State
from harness.store.run import Run

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between checks of the limits
#: causes after which a retry may succeed; not wrong input, divergence or an error of a plugin
TRANSIENT = ("died", "stalled", "device")


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended: state, reason (a sentence for the user), cause (for retries)."""

    state: State
    reason: str
    cause: str


def death(launch: Launch, ended: local.Exit, log: str) -> Verdict:
    """The verdict on processes that ended without writing a failure note."""
    code = 0 if ended.first is None else ended.codes[ended.first]
    if code < 0:
        name = signal.Signals(-code).name
        who = f"process {ended.first}" if launch.processes > 1 else "the worker"
        why = ", by hand or for want of memory" if -code == signal.SIGKILL else ""
        return Verdict(State.FAILED, f"{who} was killed ({name}{why}); see {log}", "died")
    return Verdict(State.FAILED, f"the worker ended with exit code {code}; see {log}", "died")


class Watched:
    """The processes of a cell on this machine, started immediately and restarted if that may help.

    Used by `Scheduler`, locally for several cells and in a Slurm job for one. If a cell spans
    machines, this is the first of them; see following.py for the others.
    """

    def __init__(
        self,
        run: Run,
        launch: Launch,
        gpus: Sequence[str] = (),
        node: local.Node | None = None,
    ) -> None:
        self.run = run
        self.launch = launch
        self.gpus = list(gpus)
        self.node = node or local.Node()
        self.attempts = self._retried = 0  # less memory is another attempt, but no retry
        self._started = time.monotonic()
        self._asked = False
        self._ending: Verdict | None = None
        self._deadline = 0.0
        self._start()

    def poll(self) -> bool:
        """Whether the cell has ended without another attempt; status.json then has its state."""
        ended = self.handle.poll()
        if ended is None:
            self._watch()
            return False
        return self._ended(ended)

    def stop(self) -> None:
        """Ask for a checkpoint and an exit within `launch.grace` minutes; there is no retry."""
        self._asked = True
        self._deadline = time.monotonic() + self.launch.grace * 60
        self.handle.stop()

    def kill(self) -> None:
        """Kill the processes."""
        self._asked = True
        self.handle.kill()

    def _start(self) -> None:
        self.attempts += 1
        self._looked = self._alive = time.monotonic()
        self._updated: object = None
        self.run.tidy()
        for note in self.run.failures():
            note.unlink(missing_ok=True)
        step = self.run.known_status().get("step", 0)
        self.run.set_status(State.QUEUED, step=step, attempts=self.attempts)
        if self.launch.nodes > 1:
            self.node = meeting.call(self.run, self.node)
        self.handle = local.start(self.run, self.launch, self.gpus, self.node)

    def _watch(self) -> None:
        """Apply the limits; if one is exceeded: ask to stop, wait for the checkpoint, kill."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self._ending is not None or self._asked:
            if now > self._deadline:
                self.handle.kill()
            return
        if self.launch.nodes > 1 and (notes := self._notes()):
            # one of our own is seen by the handle; one elsewhere leaves ours waiting for it
            self._ending, self._deadline = _read(notes[0]), now + local.FAREWELL
            return
        status = self.run.known_status()
        if status.get("updated") != self._updated or status.get("phase") == "preparing":
            self._updated, self._alive = status.get("updated"), now
        limits = self.launch
        if limits.timeout is not None and now - self._started > limits.timeout * 60:
            reason = f"it ran for {limits.timeout:g} minutes (launch.timeout)"
            self._end(Verdict(State.TIMEOUT, reason, "timeout"), limits.grace * 60)
        elif limits.stall is not None and now - self._alive > limits.stall * 60:
            reason = f"no sign of life for {limits.stall:g} minutes (launch.stall)"
            self._end(Verdict(State.FAILED, reason, "stalled"), 0.0)

    def _end(self, verdict: Verdict, grace: float) -> None:
        self._ending, self._deadline = verdict, time.monotonic() + grace
        self.handle.stop()

    def _ended(self, ended: local.Exit) -> bool:
        if not self.run.missing(wanted(self.run.request, self.run.spec)):
            self.run.mark_done()  # however its processes ended: nothing is left to do
            return True
        verdict = self._ending or self._explain(ended)
        self._ending = None
        if not self._asked:
            smaller = self._smaller() if verdict.cause == "memory" else None
            if smaller is not None:
                name, size = smaller
                self.run.write_request(replace(self.run.request, **{name: size}))
                self._say(f"out of memory: {name} is now {size}")
                self._start()
                return False
            if verdict.cause in TRANSIENT and self._retried < self.launch.retries:
                self._retried += 1
                self._say(f"{verdict.reason}; attempt {self.attempts + 1}")
                self._start()
                return False
        step = self.run.known_status().get("step", 0)
        self.run.set_status(verdict.state, verdict.reason, step=step, attempts=self.attempts)
        return True

    def _explain(self, ended: local.Exit) -> Verdict:
        """The verdict on the first failure; those of other processes are its consequences."""
        code = 0 if ended.first is None else ended.codes[ended.first]
        if self.launch.nodes > 1 and code > 0:
            time.sleep(2 * LOOK)  # a death elsewhere, which ours may follow from, is being told
        notes = self._notes()
        if notes and not code < 0:
            return _read(notes[0])
        if code < 0 and self._asked:  # before it could save, or by a second interrupt
            return Verdict(State.INTERRUPTED, "interrupted before it could save", "interrupted")
        return death(self.launch, ended, f"{self.run.path.name}/worker.log")

    def _notes(self) -> list[dict[str, Any]]:
        """Failure notes of this attempt in order of time, with deaths first, which cause others."""
        notes = [note for path in self.run.failures() if (note := self.run.failure(path))]
        notes = [note for note in notes if note.get("attempt", "") == self.node.attempt]
        return sorted(notes, key=lambda note: (note["cause"] != "died", float(note["time"])))

    def _smaller(self) -> tuple[str, int] | None:
        """(field of the request, new size) after out of memory; None if it was one sample.

        About half of the size tried; a micro-batch must divide a process's share of the batch.
        """
        tried = next((note["tried"] for note in self._notes() if note.get("tried")), None)
        if not tried:
            return None
        name, size = tried
        share = self.run.spec.train["batch"] // self.launch.processes
        fits = (k for k in range(size // 2, 0, -1) if name != "micro_batch" or share % k == 0)
        return next(((name, k) for k in fits), None)

    def _say(self, text: str) -> None:
        log.warning("%s: %s", self.run.run_id, text)
        with (self.run.path / "worker.log").open("a") as file:
            file.write(f"--- {text}\n")


def _read(note: dict[str, Any]) -> Verdict:
    return Verdict(State(note["state"]), note["reason"], note["cause"])
