"""Starting a cell on this machine: one subprocess, or one torchrun group, per cell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import IO

from harness.config.schema import Launch
from harness.store.store import Run


@dataclass
class Handle:
    """A started cell: its process group and its log."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self.log.close()
        return code

    def signal(self, number: int) -> None:
        """Send a signal to every process of the cell."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def start(run: Run, launch: Launch) -> Handle:
    """Start the worker of a run in a process group of its own, its output in worker.log."""
    command = [sys.executable]
    if launch.processes > 1:
        # `accelerate launch --cpu` would silently start one process only; torchrun does not
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(launch.processes)]
    command += ["-m", "harness.train.worker", str(run.path), "--attached"]
    environment = dict(os.environ)
    threads = launch.threads or max(1, (os.cpu_count() or 1) // (launch.slots * launch.processes))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    log = (run.path / "worker.log").open("ab")
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # held open: its end tells the worker that we are gone
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    return Handle(process, log)
