"""Progress reports of long computations to one listener: a worker's status file or a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: called with (name of the task, parts done, parts in all)
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(what: str, done: int, total: int) -> None:
    """Report that `done` of `total` parts of the task `what` are done, if there is a listener.

    The listener may raise an exception to stop the computation.
    """
    if (listener := _listener.get()) is not None:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` for every `tell` within the `with` block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Pace:
    """Formats progress reports with the time left: `calibrating: 35 %, 2 min left`.

    The time left follows from the parts done since the first report of the task, not from those
    that an earlier process did.
    """

    def __init__(self) -> None:
        self._what = ""
        self._since = 0.0
        self._first = self._last = 0

    def line(self, what: str, done: int, total: int) -> str:
        """The line for a progress report."""
        now = time.monotonic()
        if what != self._what or done < self._last or not done:
            self._what, self._since, self._first = what, now, done
        self._last = done
        here = done - self._first
        left = (now - self._since) * (total - done) / here if here else 0.0
        told = f"{what}: {100 * done // max(1, total)} %"
        return f"{told}, {seconds(left)} left" if left >= 1 else told

    @property
    def elapsed(self) -> float:
        """Seconds since the first report of the current task."""
        return time.monotonic() - self._since


def seconds(count: float) -> str:
    """Format a number of seconds: `40 s`, `12 min`, `3.5 h`."""
    if count < 90:
        return f"{count:.0f} s"
    return f"{count / 60:.0f} min" if count < 5400 else f"{count / 3600:.1f} h"
