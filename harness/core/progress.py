"""How far a long piece of work is, told to whoever listens: a worker's status, a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: is told what is being done, how much of it is, and of how much
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` parts of a piece of work are done; nobody need listen.

    The listener may raise, to stop it.
    """
    if (listener := _listener.get()) is not None:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told of all that is done within."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Pace:
    """One piece of work after the other, each in a line: `calibrating: 35 %, 2 min left`."""

    def __init__(self) -> None:
        self._what = ""
        self._since = 0.0

    def line(self, what: str, done: int, total: int) -> str:
        """The line for what was told."""
        now = time.monotonic()
        if what != self._what or not done:
            self._what, self._since = what, now
        left = (now - self._since) * (total - done) / done if done else 0.0
        told = f"{what}: {100 * done // max(1, total)} %"
        return f"{told}, {seconds(left)} left" if left >= 1 else told

    @property
    def elapsed(self) -> float:
        """Seconds since the piece of work was first told of."""
        return time.monotonic() - self._since


def seconds(count: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if count < 90:
        return f"{count:.0f} s"
    return f"{count / 60:.0f} min" if count < 5400 else f"{count / 3600:.1f} h"
