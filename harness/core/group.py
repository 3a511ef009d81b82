"""The group of processes that train one cell: gather, broadcast, and shared creation of files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import distributed

T, A = TypeVar("T"), TypeVar("A")
#: seconds to wait for a file written by another process (network file systems), and polling period
LATEST, LOOK = 600.0, 1.0


class _NotYet(Exception):
    """What the first process has made is not visible to this process yet."""


@dataclass(frozen=True)
class Group:
    """Rank and size of the process group that works on one cell; a single process by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """That of torch.distributed's default group if initialised, else a single process."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, share: list[Any]) -> list[Any]:
        """All-gather: the lists of all processes, concatenated by rank, in every process."""
        if self.size == 1:
            return share
        shares: list[Any] = [None] * self.size
        distributed.all_gather_object(shares, share)
        return [item for part in shares for item in part]

    def together(self, get: Callable[[Callable[[], T]], A], make: Callable[[], T]) -> A:
        """Call `get(make)` in every process, where `make` is collective.

        Rank 0 calls `get`, which returns a stored result, waits for another runner that makes it,
        or calls `make`. The other ranks take part in `make` only if rank 0 calls it, and then read
        the result, which on another machine may become visible a minute late.

        Raises:
            TimeoutError: rank 0 has the result, and it did not become visible here in `LATEST` s.
        """
        if self.rank > 0:
            while self.tell():
                make()
            return _patiently(get)

        def lead() -> T:
            self.tell(True)
            return make()

        found = get(lead)
        self.tell(False)
        return found

    def tell(self, value: Any = None) -> Any:
        """Broadcast: the value of rank 0, in every process."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]


def _patiently(get: Callable[[Callable[[], T]], A]) -> A:
    """Poll `get` until the result is visible, never making it: `make` alone would deadlock."""

    def not_yet() -> T:
        raise _NotYet

    deadline = time.monotonic() + LATEST
    while True:
        try:
            return get(not_yet)
        except _NotYet:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the first process has made what this one does not see after {LATEST:g} s:"
                    " do they share the results folder?"
                ) from None
            time.sleep(LOOK)
