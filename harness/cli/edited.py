"""Plugins that were edited after runs of theirs: old numbers are not passed off as new ones."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

from harness.errors import HarnessError
from harness.store.records import RunSpec
from harness.store.store import ResultStore


def tell_edited(store: ResultStore, specs: Iterable[RunSpec]) -> None:
    """Say on stderr which plugins differ from what existing runs were made with."""
    from harness.config.workshop import own_sources

    edited: Counter[str] = Counter()
    for spec in specs:
        try:
            then = store.run_at(spec.run_id).origin().get("plugins", {})
        except HarnessError:
            continue  # a damaged file is told by whoever needs it
        for axis, now in own_sources(spec).items() if then else ():
            if then.get(axis, now) != now:
                edited[f"{axis} {getattr(spec, axis).name}"] += 1
    for plugin, runs in edited.items():
        print(
            f"note: the file of {plugin} was edited since {runs} of these runs, whose numbers stay;"
            " if its own change, raise `revision` on the class and they are made anew",
            file=sys.stderr,
        )
