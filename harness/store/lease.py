"""Who works on what: a lock that needs nothing from the file system but exclusive creation.

A lease is a file that its holder touches. On one machine a dead holder is seen at once; on another
one it is given up for dead after `PATIENCE` seconds without a touch, measured by the waiting
machine's own clock, so neither NFS's delays (attributes are cached for up to a minute) nor clocks
that differ can take a living cell away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

PATIENCE = 180.0
ASK_AGAIN = 0.2  # seconds

#: leases seen empty: (path, inode) -> when first, by this machine's clock
_empty_since: dict[tuple[str, int], float] = {}


def lease(path: Path) -> SoftFileLease:
    """The lease at `path`, not taken yet; its folder is created.

    Keep the object while waiting: what it has seen of the holder's touches is kept in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(path, lease_duration=PATIENCE, thread_local=False)


def taken(lock: SoftFileLease) -> bool:
    """Take a lease if it is free; whether that worked."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _give_up_nameless(Path(lock.lock_file))
        return False
    return True


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lease at `path`, waiting for it as long as it takes."""
    lock = lease(path)
    while not taken(lock):
        time.sleep(ASK_AGAIN)
    try:
        yield
    finally:
        lock.release()


def _give_up_nameless(path: Path) -> None:
    """End a lease whose holder died between creating the file and writing its name there.

    filelock respects an empty file for ever, as its old releases wrote no name. After `PATIENCE` we
    append a line's end: what is not empty and no record counts as torn, and is taken over. A holder
    that does live writes its record over it, or has it before an empty line; both are whole.
    """
    with contextlib.suppress(OSError):
        seen = path.stat()
        if seen.st_size == 0:
            first = _empty_since.setdefault((str(path), seen.st_ino), time.monotonic())
            if time.monotonic() - first > PATIENCE:
                with path.open("ab", buffering=0) as file:
                    file.write(b"\n")
