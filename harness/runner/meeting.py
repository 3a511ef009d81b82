"""Rendezvous of the machines of one cell by meeting.json in the run's folder.

The first machine writes attempt, address and port. The others start their processes for every new
attempt, and exit when the first machine ends the cell. Only the shared folder is needed, and
processes of different attempts never connect.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from dataclasses import replace

from harness.errors import ArtifactError
from harness.runner.local import Node, free_port
from harness.store.files import read_json, write_json
from harness.store.run import Run

OVER = "over"


def address() -> str:
    """A resolvable name of this machine: Slurm's node name, or the host name."""
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        with contextlib.suppress(OSError):
            if name and socket.getaddrinfo(name, None):
                return name
    return "127.0.0.1"


def call(run: Run, node: Node) -> Node:
    """On the first machine, announce a new attempt; return the node with attempt and port."""
    node = replace(node, attempt=uuid.uuid4().hex[:12], port=free_port())
    told = {"job": node.job, "attempt": node.attempt, "address": node.address, "port": node.port}
    write_json(run.path / "meeting.json", told)
    return node


def dismiss(run: Run, job: str) -> None:
    """On the first machine, announce that there will be no further attempt."""
    write_json(run.path / "meeting.json", {"job": job, "attempt": OVER})


def called(run: Run, node: Node) -> Node | None:
    """On another machine, read the announcement: attempt OVER after the end, None if none yet."""
    try:
        told = read_json(run.path / "meeting.json")
    except (OSError, ArtifactError):
        return None
    if told.pop("job") != node.job:  # left by an earlier start of this cell
        return None
    return replace(node, **told)
