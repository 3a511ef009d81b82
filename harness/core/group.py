"""The processes that work on one cell together, as far as what they make together is concerned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import distributed

T, A = TypeVar("T"), TypeVar("A")
#: seconds that what another process has written may take to be seen, and between two looks
LATEST, LOOK = 600.0, 1.0


class _NotYet(Exception):
    """What is there for the first process is not in sight."""


@dataclass(frozen=True)
class Group:
    """This process's place among `size` that do the same; by default it is alone."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The default process group of torch.distributed if one was started, else alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, share: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other, in each of them."""
        if self.size == 1:
            return share
        shares: list[Any] = [None] * self.size
        distributed.all_gather_object(shares, share)
        return [item for part in shares for item in part]

    def together(self, get: Callable[[Callable[[], T]], A], make: Callable[[], T]) -> A:
        """`get(make)` in each of them, where all must take part in `make` if it comes to that.

        The first process asks `get`, which may have the thing or be waiting for somebody else who
        makes it; the others wait to be told whether to make it, and then get what there is, which
        on another machine may be seen a minute late.

        Raises:
            TimeoutError: the first process has it, and it never came into sight here.
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
        """What the first process says, in each of them."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]


def _patiently(get: Callable[[Callable[[], T]], A]) -> A:
    """`get` without making anything: alone that would wait for the others for ever."""

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
