"""Numbers of problems and protocols, by which the page's tables, charts and filters meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL
from harness.report.sources import problems
from harness.report.write import Report

GROUP = [*PROBLEM, *PROTOCOL]


@dataclass(frozen=True)
class Places:
    """Problems and protocols in the order of the page's menus."""

    problems: list[dict[str, Any]]
    protocols: list[dict[str, Any]]

    @classmethod
    def of(cls, report: Report) -> Places:
        """Those of a grid; protocols are those that have a number."""
        protocols = report.leaderboard[PROTOCOL].drop_duplicates()
        return cls([named for named, _ in problems(report)], records(protocols))

    def problem(self, named: dict[str, Any]) -> int:
        """Place of the problem that `named` belongs to."""
        return self.problems.index({axis: named[axis] for axis in PROBLEM})

    def protocol(self, named: dict[str, Any]) -> int:
        """Place of the protocol that `named` was measured by."""
        return self.protocols.index({axis: named[axis] for axis in PROTOCOL})


def groups(
    frame: pd.DataFrame, axes: list[str], sort: bool = False
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The parts of a frame that agree on `axes`, each with what they agree on."""
    for key, group in frame.groupby(axes, sort=sort):
        yield dict(zip(axes, key, strict=True)), group


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries by name of column."""
    return cast("list[dict[str, Any]]", frame.to_dict("records"))
