"""Indices of problems and protocols, which link the page's tables, charts and filters."""

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
        """Problems and protocols of a report; only protocols with a measurement."""
        protocols = report.leaderboard[PROTOCOL].drop_duplicates()
        return cls([named for named, _ in problems(report)], records(protocols))

    def problem(self, named: dict[str, Any]) -> int:
        """Index of the problem to which `named` belongs."""
        return self.problems.index({axis: named[axis] for axis in PROBLEM})

    def protocol(self, named: dict[str, Any]) -> int:
        """Index of the protocol by which `named` was measured."""
        return self.protocols.index({axis: named[axis] for axis in PROTOCOL})


def groups(
    frame: pd.DataFrame, axes: list[str], sort: bool = False
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Group a frame by `axes`; each group with its values of the axes."""
    for key, group in frame.groupby(axes, sort=sort):
        yield dict(zip(axes, key, strict=True)), group


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries by name of column."""
    return cast("list[dict[str, Any]]", frame.to_dict("records"))
