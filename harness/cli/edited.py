"""Plugins that were edited after runs of theirs: old numbers are not passed off as new ones."""

from __future__ import annotations

import sys
from collections import Counter

from harness.config.matrix import Matrix
from harness.config.workshop import own_sources
from harness.errors import HarnessError
from harness.store.store import ResultStore


def tell_edited(store: ResultStore, matrix: Matrix) -> None:
    """Say on stderr which plugins differ from what existing numbers of a grid were made with."""
    edited: Counter[str] = Counter()
    for spec in matrix.specs:
        now = own_sources(spec, matrix.request)
        if not now:
            continue
        run = store.run_at(spec.run_id)
        try:
            rows, earlier = run.rows(), run.plugins()
        except (HarnessError, OSError):
            continue  # a damaged file is told by whoever needs it
        then = [rows[m].plugins or earlier for m in matrix.wanted(spec) if m in rows]
        for plugin, digest in now.items():
            edited[plugin] += any(known.get(plugin, digest) != digest for known in then)
    for plugin, runs in edited.items():
        if runs:
            print(
                f"note: the file of {plugin} was edited since {runs} of these runs, whose numbers"
                " stay; if the edit changes numbers, raise `revision` on the class and they are"
                " made anew",
                file=sys.stderr,
            )
