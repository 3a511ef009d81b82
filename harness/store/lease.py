"""Leases: locks that need only exclusive file creation from the file system.

A lease is a file whose holder touches it regularly. A dead holder on the same machine is detected
at once; on another machine the lease expires after `PATIENCE` seconds without a touch, measured by
the waiting machine's own clock, so that neither NFS delays (attributes are cached for up to a
minute) nor differing clocks expire the lease of a living holder.
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
    """The lease at `path`, not acquired yet; its folder is created.

    Keep the object while waiting, since it records when the holder's touches were seen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(path, lease_duration=PATIENCE, thread_local=False)


def taken(lock: SoftFileLease) -> bool:
    """Try to acquire a lease without waiting; return whether that succeeded."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _give_up_nameless(Path(lock.lock_file))
        return False
    return True


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Acquire the lease at `path`, waiting without limit, and hold it in the `with` block."""
    lock = lease(path)
    while not taken(lock):
        time.sleep(ASK_AGAIN)
    try:
        yield
    finally:
        lock.release()


def _give_up_nameless(path: Path) -> None:
    """Expire a lease whose holder died between creating the file and writing its record.

    filelock never expires an empty file, because its old releases wrote no record. After `PATIENCE`
    a newline is appended: filelock treats such a file as incomplete and takes it over. If the
    holder is alive, its record is overwritten or followed by an empty line; both are valid.
    """
    with contextlib.suppress(OSError):
        seen = path.stat()
        if seen.st_size == 0:
            first = _empty_since.setdefault((str(path), seen.st_ino), time.monotonic())
            if time.monotonic() - first > PATIENCE:
                with path.open("ab", buffering=0) as file:
                    file.write(b"\n")
