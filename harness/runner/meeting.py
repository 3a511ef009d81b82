"""How the machines of one cell find each other: meeting.json in the run's folder.

The first machine calls: this attempt, this address, this port. The others start their processes for
every attempt that is new, and end when they are dismissed. The shared folder is all it takes, and
a new attempt never meets processes of the one before.
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
    """A name of this machine that others can look up: Slurm's name of the node, or the host's."""
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        with contextlib.suppress(OSError):
            if name and socket.getaddrinfo(name, None):
                return name
    return "127.0.0.1"


def call(run: Run, node: Node) -> Node:
    """Begin an attempt on the first machine; returns the node with its attempt and a free port."""
    node = replace(node, attempt=uuid.uuid4().hex[:12], port=free_port())
    told = {"job": node.job, "attempt": node.attempt, "address": node.address, "port": node.port}
    write_json(run.path / "meeting.json", told)
    return node


def dismiss(run: Run, job: str) -> None:
    """Say on the first machine that no attempt is under way, and none will come."""
    write_json(run.path / "meeting.json", {"job": job, "attempt": OVER})


def called(run: Run, node: Node) -> Node | None:
    """Where to go, on another machine: attempt OVER after the end, None before the first call."""
    try:
        told = read_json(run.path / "meeting.json")
    except (OSError, ArtifactError):
        return None
    if told.pop("job") != node.job:  # left by an earlier start of this cell
        return None
    return replace(node, **told)
