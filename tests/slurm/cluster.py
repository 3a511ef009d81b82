"""A real Slurm of two nodes on this one machine, from Debian's packages, gone again afterwards.

Needs root and Debian or Ubuntu. Nothing listens beyond the loopback interface, and all files (but
those of the packages) lie in one folder. By hand:

    python -m tests.slurm.cluster /tmp/slurm      # starts it, says how to use it, Ctrl-C ends it
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness.runner.local import free_port

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")

CONFIG = """\
ClusterName=proof
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=10
MinJobAge=86400
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{more}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def install() -> None:
    """Install Slurm and munge unless they are there (16 s, 14 MB); their services do not start."""
    if all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "munged")):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def cluster(root: Path, more: str = "") -> Iterator[Path]:
    """Start munged, slurmctld and a slurmd a node under `root`; yields the slurm.conf.

    Args:
        more: further lines of slurm.conf, e.g. `SlurmctldParameters=preempt_send_user_signal`.
    """
    root.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(NODES)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()}"
        f" CPUs={os.cpu_count()} RealMemory={memory} State=UNKNOWN"
        for name in NODES
    )
    conf = root / "slurm.conf"
    conf.write_text(CONFIG.format(root=root, host=host, port=free_port(), nodes=nodes, more=more))
    (root / "state").mkdir(exist_ok=True)
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (root / f"{Path(command[0]).name}.out").open("ab")
        started.append(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
        )

    key = root / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    munge = {
        "key-file": key,
        **{
            name: root / f"munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        },
    }
    try:
        start(
            "munged",
            "--foreground",
            "--force",
            *(f"--{flag}={path}" for flag, path in munge.items()),
        )
        _until(munge["socket"].exists, 20)
        start("slurmctld", "-D", "-c")
        for name in NODES:
            start("slurmd", "-D", "-N", name)
        _until(lambda: _idle(environment) == len(NODES), 60)
        try:
            yield conf
        finally:
            _ask(environment, "scancel", "--me")
            with contextlib.suppress(TimeoutError):
                _until(lambda: not _ask(environment, "squeue", "-h"), 30)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _idle(environment: dict[str, str]) -> int:
    return _ask(environment, "sinfo", "-h", "-N", "-p", "main", "-o", "%T").count("idle")


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("Slurm did not come up; see its logs")
        time.sleep(0.2)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    install()
    with cluster(Path(sys.argv[1])) as conf:
        print(f"up: export SLURM_CONF={conf}; sinfo; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
