"""What a worker says of itself: status.json while it lives, a note of why it failed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size

from harness.core.progress import Pace
from harness.errors import DivergedError, HarnessError, file_sentence
from harness.registry import registry
from harness.store.records import State
from harness.store.run import Run

log = logging.getLogger(__name__)

BEAT = 0.5  # seconds between two writings of status.json
#: how the libraries below torch sign their RuntimeErrors: a device, or the way to another process
BELOW = re.compile(r"\b(CUDA|CUDNN|CUBLAS|HIP|NCCL|gloo)\b|cuDNN|(CUDNN|CUBLAS)_STATUS")

#: how they say that the device's memory is full, besides torch's own OutOfMemoryError
FULL = re.compile(r"out of memory|_ALLOC_FAILED")


class Interrupted(HarnessError):
    """The process was asked to stop; everything up to the last step or row is on disk."""

    exit_code = 130


class Status:
    """status.json of a run, written by its main process, and the wish to stop.

    SIGTERM and SIGINT ask for a checkpoint, then an end. SIGUSR2, which a cluster sends before it
    takes a machine away, is for the job's own process and not for us.
    """

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run = run
        self.accelerator = accelerator
        self.step = 0
        self.phase = "preparing"
        #: what could be halved where memory is short: phase -> field of the request, its value now
        self.sizes: dict[str, tuple[str, int]] = {}
        self.detail = ""
        self._pace = Pace()
        self._asked = False
        self._beaten = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        self._write(State.RUNNING, "")

    def enter(self, phase: str, step: int) -> None:
        """Say what comes now: `training` or `evaluating`; both have to show signs of life."""
        self.phase, self.step, self.detail = phase, step, ""
        self._write(State.RUNNING, "")

    def beat(self, step: int | None = None) -> None:
        """A sign of life, and the step; status.json is rewritten twice a second at most."""
        self.step = self.step if step is None else step
        if time.monotonic() - self._beaten > BEAT:
            self._write(State.RUNNING, "")

    def hear(self, what: str, done: int, total: int) -> None:
        """A listener of harness/core/progress.py: says in status.json how far the phase is.

        Raises:
            Interrupted: the cell's only process was asked to stop and does not train: whatever
                could be saved is.
        """
        if self._asked and self.phase != "training" and self.accelerator.num_processes == 1:
            raise Interrupted(f"stopped, {what}; `run` begins that anew")
        self.detail = self._pace.line(what, done, total)
        self.beat()

    def stopping(self) -> bool:
        """Whether any process of the cell was asked to stop; every one must ask at once."""
        if self.accelerator.num_processes == 1:
            return self._asked
        asked = torch.tensor(float(self._asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def fail(self, error: Exception) -> None:
        """Leave a note of why this process ends; the main one tells status.json, too."""
        state, cause, reason = explain(error)
        log.error("%s: %s", state, reason)
        with contextlib.suppress(OSError):  # a full disk: the runner still sees the exit code
            attempt = os.environ.get("HARNESS_ATTEMPT", "")
            told: dict[str, Any] = {"phase": self.phase, "step": self.step, "attempt": attempt}
            if cause == "memory" and self.phase in self.sizes:
                told["tried"] = self.sizes[self.phase]
            self.run.fail(self.accelerator.process_index, state, reason, cause, **told)
        self._write(state, reason)

    def done(self) -> None:
        """Everything that was asked for is on disk."""
        self.detail = ""
        self._write(State.DONE, "")

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _write(self, state: State, reason: str) -> None:
        self._beaten = time.monotonic()
        if self.accelerator.is_main_process:
            with contextlib.suppress(OSError):  # a beat that cannot be written is no reason to end
                pid = os.getpid()
                detail = {"detail": self.detail} if self.detail else {}
                told = {"step": self.step, "phase": self.phase, "pid": pid, **detail}
                self.run.set_status(state, reason, **told)


def explain(error: Exception) -> tuple[State, str, str]:
    """What an exception means: the state of the cell, a cause for the runner, a sentence."""
    sentence = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, DivergedError):
        return State.DIVERGED, "diverged", sentence
    if isinstance(error, Interrupted):
        return State.INTERRUPTED, "interrupted", sentence
    if isinstance(error, HarnessError):
        return State.FAILED, "refused", str(error)
    by_library = isinstance(error, RuntimeError) and FULL.search(sentence)
    if isinstance(error, MemoryError) or by_library or should_reduce_batch_size(error):
        return State.FAILED, "memory", f"out of memory: {sentence}"
    if isinstance(error, OSError) and error.strerror:
        return State.FAILED, "file", file_sentence(error)
    told = f"{type(error).__name__}: {sentence}"
    if isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and BELOW.search(sentence)
    ):
        return State.FAILED, "device", told
    return State.FAILED, "unexpected", told + registry.blamed(error)
