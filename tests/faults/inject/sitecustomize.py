"""Faults from inside: Python imports this in every process that has its folder on its path.

FAULTS names a JSON file, see `plan` in tests/faults/plan.py:

    folder     where what was struck is noted, one file a fault, so that each strikes once
    delay      seconds; files are opened, renamed and removed up to that much later, like over NFS
    patience   replaces harness.store.lease.PATIENCE, so that a test need not wait for minutes
    faults     [{who, event, path, nth, what, tear}, ...]

A fault strikes the `nth` time that a process of kind `who` comes to `event` on a path that matches:
open, rename and remove before they happen, write and fsync with `tear` bytes missing from the file.
"""

import errno
import json
import os
import random
import re
import signal
import sys
import time

EVENTS = {"open": "open", "os.rename": "rename", "os.remove": "remove", "subprocess.Popen": "start"}


def who() -> str:
    """`runner`, `worker` (a cell of one process) or `rank N`; empty for anything else."""
    line = sys.orig_argv
    if "harness.train" in line:
        rank = os.environ.get("RANK")
        return "worker" if rank is None else f"rank {rank}"
    return "runner" if line[1:4] == ["-m", "harness", "run"] else ""


class Faults:
    """What is to happen in this process."""

    def __init__(self, plan: dict) -> None:
        self.folder, self.delay = plan["folder"], plan.get("delay", 0.0)
        self.results = plan["results"]
        self.mine = [
            {**fault, "name": f"{number:03d}", "seen": 0}
            for number, fault in enumerate(plan["faults"])
            if re.fullmatch(fault["who"], who())
        ]
        self.random = random.Random(os.getpid())
        self.busy = False

    def come_to(self, event: str, path: str, descriptor: int | None = None) -> None:
        """Called before an event: wait, strike, or count."""
        if self.busy or self.results not in path:
            return
        self.busy = True  # what we do ourselves is no event
        try:
            if self.delay and event in ("open", "rename", "remove"):
                time.sleep(self.random.uniform(0, self.delay))
            for fault in self.mine:
                if fault["event"] == event and re.search(fault["path"], path):
                    fault["seen"] += 1
                    if fault["seen"] >= fault["nth"]:
                        self.strike(fault, path, descriptor)
        finally:
            self.busy = False

    def strike(self, fault: dict, path: str, descriptor: int | None) -> None:
        """End this process, once in all processes; or, for ENOSPC and so on, refuse each time."""
        what = fault["what"]
        if what.startswith("E"):
            number = getattr(errno, what)
            raise OSError(number, os.strerror(number))
        try:
            note = os.open(f"{self.folder}/{fault['name']}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(note, f"{who()}: {what} at {fault['event']} {path}\n".encode())
        os.close(note)
        if descriptor is not None and fault["tear"] and what != "SIGTERM":
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, max(0, size - fault["tear"]))
        if what == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.Signals[what])

    def audit(self, event: str, arguments: tuple) -> None:
        """Python's own report of what a process is about to do."""
        if event not in EVENTS:
            return
        path = arguments[1][-2] if event == "subprocess.Popen" else arguments[0]
        if event == "os.rename":
            path = arguments[1]
        if isinstance(path, str | os.PathLike):
            self.come_to(EVENTS[event], os.fspath(path))


def install() -> None:
    """Read the plan and listen."""
    with open(os.environ["FAULTS"]) as file:
        plan = json.load(file)
    faults = Faults(plan)
    fsync, write = os.fsync, os.write

    def after_write(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        faults.come_to("write", os.readlink(f"/proc/self/fd/{descriptor}"), descriptor)
        return written

    def before_fsync(descriptor: int) -> None:
        faults.come_to("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), descriptor)
        fsync(descriptor)

    os.fsync, os.write = before_fsync, after_write
    sys.addaudithook(faults.audit)
    if "patience" in plan:
        from harness.store import lease

        lease.PATIENCE = plan["patience"]


if "FAULTS" in os.environ and who():
    install()
