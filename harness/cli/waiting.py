"""Progress of a command on stderr: one updated line on a terminal, otherwise dated lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from harness.core.progress import Pace

#: seconds before anything is said of a piece of work, and between lines in a log
PATIENCE, EVERY = 2.0, 10.0


class Waiting:
    """A listener of harness/core/progress.py that shows what takes longer than `PATIENCE`."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._said = 0.0
        self._shown = False

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._clear()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it, now and then."""
        line, now = self._pace.line(what, done, total), time.monotonic()
        if done >= total:
            self._clear()
        elif self._pace.elapsed < PATIENCE:
            return
        elif sys.stderr.isatty():
            if now - self._said > 0.2:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
                self._said, self._shown = now, True
        elif now - self._said > EVERY:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
            self._said = now

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
