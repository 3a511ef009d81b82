"""The status that a worker writes: status.json while it runs, and a note of why it failed."""

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
#: marks RuntimeErrors of the libraries below torch: a fault of a device or of communication
BELOW = re.compile(r"\b(CUDA|CUDNN|CUBLAS|HIP|NCCL|gloo)\b|cuDNN|(CUDNN|CUBLAS)_STATUS")

#: marks those that mean out of memory, besides torch's own OutOfMemoryError
FULL = re.compile(r"out of memory|_ALLOC_FAILED")


class Interrupted(HarnessError):
    """The process was asked to stop; everything up to the last step or row is on disk."""

    exit_code = 130


class Status:
    """Writes status.json of a run (main process only) and handles requests to stop.

    SIGTERM and SIGINT request a checkpoint and an exit. SIGUSR2, which a cluster sends before it
    reclaims a machine, is handled by the job's own process and ignored here.
    """

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run = run
        self.accelerator = accelerator
        self.step = 0
        self.phase = "preparing"
        #: phase -> (field of the request, its value) to halve when out of memory
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
        """Begin the phase `training` or `evaluating`; in both, `beat` must be called regularly."""
        self.phase, self.step, self.detail = phase, step, ""
        self._write(State.RUNNING, "")

    def beat(self, step: int | None = None) -> None:
        """Heartbeat with the current step; status.json is rewritten at most every `BEAT` s."""
        self.step = self.step if step is None else step
        if time.monotonic() - self._beaten > BEAT:
            self._write(State.RUNNING, "")

    def hear(self, what: str, done: int, total: int) -> None:
        """Write a progress report of harness/core/progress.py to status.json.

        Raises:
            Interrupted: a stop was requested, this is the cell's only process, and it is not in the
                phase `training`, whose loop saves a checkpoint first.
        """
        if self._asked and self.phase != "training" and self.accelerator.num_processes == 1:
            raise Interrupted(f"stopped, {what}; `run` begins that anew")
        self.detail = self._pace.line(what, done, total)
        self.beat()

    def stopping(self) -> bool:
        """Whether any process of the cell was asked to stop; collective with several processes."""
        if self.accelerator.num_processes == 1:
            return self._asked
        asked = torch.tensor(float(self._asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def fail(self, error: Exception) -> None:
        """Write a note of why this process ends; the main process also writes status.json."""
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
        """Set the state to done: all results are on disk."""
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
    """Map an exception to (state of the cell, cause for the runner, message)."""
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
