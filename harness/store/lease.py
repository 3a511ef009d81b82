"""Who works on what: a lock that needs nothing from the file system but exclusive creation.

A lease is a file that its holder touches. On one machine a dead holder is seen at once; on another
one it is given up for dead after `PATIENCE` seconds without a touch, measured by the waiting
machine's own clock, so neither NFS's delays (attributes are cached for up to a minute) nor clocks
that differ can take a living cell away.
"""

from __future__ import annotations

from pathlib import Path

from filelock import SoftFileLease, Timeout

PATIENCE = 180.0


def lease(path: Path) -> SoftFileLease:
    """The lease at `path`, not taken yet; its folder is created.

    Keep the object while waiting: what it has seen of the holder's touches is kept in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(path, lease_duration=PATIENCE, thread_local=False, poll_interval=0.2)


def taken(lock: SoftFileLease) -> bool:
    """Take a lease if it is free; whether that worked."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
