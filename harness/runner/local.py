"""The processes of one cell on this machine: start, poll, stop and kill them as a group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from harness.config.schema import Launch
from harness.runner.devices import cores
from harness.store.run import Run

#: seconds that the other processes of a cell have to exit after one has failed
FAREWELL = 15.0


@dataclass(frozen=True)
class Node:
    """Rank of this machine among those of a cell, and address and port of the first one.

    `job` identifies a start of the cell on all its machines, `attempt` a retry within that start.
    """

    rank: int = 0
    address: str = "127.0.0.1"
    port: int | None = None
    job: str = ""
    attempt: str = ""


@dataclass
class Exit:
    """Exit codes by rank (negative: a signal), the rank that failed first, and `killed`: by us."""

    codes: dict[int, int]
    first: int | None
    killed: bool

    @property
    def ok(self) -> bool:
        """Whether every process exited with code 0."""
        return not any(self.codes.values())


@dataclass
class Handle:
    """A started cell: one process per rank, all in one process group, and their log."""

    processes: dict[int, subprocess.Popen[bytes]]
    log: IO[bytes]
    killed: bool = False
    _first: int | None = None
    _since: float = field(default=0.0)

    @property
    def group(self) -> int:
        """The process group's id: the pid of the first process."""
        return next(iter(self.processes.values())).pid

    def poll(self) -> Exit | None:
        """The exit codes, or None while a process runs.

        After one process has failed, the others are killed, at the latest after `FAREWELL` s.
        """
        codes = {rank: process.poll() for rank, process in self.processes.items()}
        if self._first is None:
            bad = {rank: code for rank, code in codes.items() if code}
            # who was killed comes first: that the others lost it is the consequence
            self._first = min(bad, key=lambda rank: bad[rank] > 0) if bad else None
            self._since = time.monotonic()
        if None in codes.values():
            if self._first is not None:
                by_signal = (codes[self._first] or 0) < 0
                if by_signal or time.monotonic() - self._since > FAREWELL:
                    self.kill()
            return None
        self.log.close()
        ended = {rank: code for rank, code in codes.items() if code is not None}
        return Exit(ended, self._first, self.killed)

    def signal(self, number: int) -> None:
        """Send a signal to every process of the cell."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, number)

    def stop(self) -> None:
        """Send SIGTERM, which makes workers save a checkpoint and exit."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait for all processes."""
        self.killed = True
        self.signal(signal.SIGKILL)
        for process in self.processes.values():
            process.wait()


def start(run: Run, launch: Launch, gpus: list[str], node: Node | None = None) -> Handle:
    """Start this machine's ranks of a run in a process group of their own, logging to worker.log.

    torchrun is not used: its agent may die and leave the ranks behind, hides which of them failed,
    and takes seconds to start.
    """
    node = node or Node()
    here = launch.processes // launch.nodes
    environment = {**os.environ, **launch.environment, **_threads(launch, here)}
    environment["HARNESS_ATTEMPT"] = node.attempt
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's, which gave the numbers
    # PMI_* and the like would make Accelerate and torch guess at a job of their own
    for name in [
        name for name in environment if name.startswith(("PMI_", "OMPI_", "TORCHELASTIC_"))
    ]:
        del environment[name]
    log = (run.path / (f"worker-{node.rank}.log" if node.rank else "worker.log")).open("ab")
    port = node.port or free_port()
    processes: dict[int, subprocess.Popen[bytes]] = {}
    for local in range(1 if launch.accelerate_config else here):
        rank = node.rank * here + local
        ranks = {
            "RANK": rank,
            "LOCAL_RANK": local,
            "WORLD_SIZE": launch.processes,
            "LOCAL_WORLD_SIZE": here,
            "MASTER_ADDR": node.address,
            "MASTER_PORT": port,
        }
        alone = launch.processes == 1 or launch.accelerate_config
        group = next(iter(processes.values())).pid if processes else 0
        with _deaf_to(signal.SIGUSR2):
            processes[rank] = subprocess.Popen(
                [*_command(launch, node, port), str(run.path), "--attached"],
                stdin=subprocess.PIPE,  # held open: its end tells the worker that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | ({} if alone else {key: str(v) for key, v in ranks.items()}),
                process_group=group,
            )
    return Handle(processes, log)


@contextlib.contextmanager
def _deaf_to(number: int) -> Iterator[None]:
    """Processes started in the `with` block ignore a signal: its blocking is inherited over exec.

    Slurm sends its warning to every process of a job, and would end those without a handler.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _command(launch: Launch, node: Node, port: int) -> list[str]:
    worker = ["-m", "harness.train"]
    if not launch.accelerate_config:
        return [sys.executable, *worker]
    told = {
        "config_file": launch.accelerate_config,
        "num_processes": launch.processes,
        "num_machines": launch.nodes,
        "machine_rank": node.rank,
        "main_process_ip": node.address,
        "main_process_port": port,
    }
    flags = [text for key, value in told.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, *worker]


def _threads(launch: Launch, here: int) -> dict[str, str]:
    """Environment with the number of CPU threads per process, such that cores are not exceeded."""
    count = launch.threads or max(1, cores() // (launch.slots * here))
    return {name: str(count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
