"""Leaderboard and coverage: the last budget, median and range over seeds, ranks, what is missing.

Ranks are per NFE, from paired seeds: the rank of a preconditioning is one plus the number of those
that are better beyond the noise between seeds (`is_better`). Those that the seeds do not
distinguish share a rank. The combined rank is the order of the mean rank over NFEs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL, settled
from harness.report.statistics import is_better
from harness.store.records import PUBLISHED, State
from harness.visible import visible

BOARD_COLUMNS = [
    *PROBLEM,
    *PROTOCOL,
    "nfe",
    "rank",
    "tied",
    "precond",
    "same_as",
    "median",
    "low",
    "high",
    "seeds",
    "seeds_planned",
    "diverged",
    "coverage",
    "mean_rank",
    "combined_rank",
    "step",
    "images",
    "lower_is_better",
]


def leaderboard(
    rows: pd.DataFrame, cells: pd.DataFrame, marks: dict[tuple[str, str], str]
) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, planned preconditioning) at the protocol's last budget.

    Only preconditionings with all their seeds have a rank; others are shown without one. A diverged
    seed counts as worse than every number. Those with equal coefficients share the better rank.
    """
    if rows.empty:
        return pd.DataFrame(columns=BOARD_COLUMNS)
    planned: dict[tuple[str, ...], dict[str, dict[int, str]]] = {}
    for *problem, precond, seed, state in _tuples(cells, [*PROBLEM, "precond", "seed", "state"]):
        planned.setdefault(tuple(problem), {}).setdefault(precond, {})[seed] = state
    published = rows[rows["objective"] == PUBLISHED]
    sampled = set(_tuples(published, [*PROBLEM, *PROTOCOL, "precond"]))
    records = []
    for protocol, found in _at_last(settled(rows, cells)).items():
        where: dict[str, Any] = dict(zip([*PROBLEM, *PROTOCOL], protocol, strict=True))
        mine = planned[tuple(where[axis] for axis in PROBLEM)]
        if where["objective"] == PUBLISHED:  # each is sampled as it can be
            mine = {name: mine[name] for name in mine if (*protocol, name) in sampled}
        twins = _twins(marks, where["teacher"])
        records += [where | record for record in _combined(_ranked(found, mine, twins))]
    board = pd.DataFrame(records).astype({"rank": "Int64", "combined_rank": "Int64"})
    order = [*PROBLEM, *PROTOCOL, "nfe", "rank", "median", "precond"]
    return board.sort_values(order, na_position="last")[BOARD_COLUMNS].reset_index(drop=True)


def ranks(costs: dict[str, dict[int, float]], twins: dict[str, str]) -> dict[str, int]:
    """preconditioning -> 1 + number of those better than it, from costs by name and seed.

    `twins` maps a name to an earlier one with the same coefficients. The earlier one represents
    both and counts once, so that they have the same rank and do not lower others twice. Only seeds
    that two have in common are compared.
    """
    stands = {name: twin if (twin := twins.get(name, name)) in costs else name for name in costs}
    names = list(dict.fromkeys(stands.values()))
    seeds = sorted({seed for name in names for seed in costs[name]})
    table = np.array([[costs[name].get(seed, math.nan) for seed in seeds] for name in names])
    beaten = is_better(table, table[:, None]).sum(1) if names else []
    better = dict(zip(names, map(int, beaten), strict=True))
    return {name: 1 + better[stands[name]] for name in costs}


@dataclass
class Last:
    """Costs at the last budget of one problem and protocol: NFE -> preconditioning -> seed."""

    step: int
    lower_is_better: bool
    images: int = 0
    costs: dict[int, dict[str, dict[int, float]]] = field(default_factory=dict)


def _at_last(rows: pd.DataFrame) -> dict[tuple[Any, ...], Last]:
    """Problem and protocol -> its last budget, in order."""
    key = [*PROBLEM, *PROTOCOL]
    last = rows[rows["step"] == rows.groupby(key)["step"].transform("max")]
    last = last.sort_values([*key, "nfe"], kind="stable")
    measured = ["nfe", "precond", "seed", "cost", "step", "images", "lower_is_better"]
    found: dict[tuple[Any, ...], Last] = {}
    for *named, nfe, precond, seed, cost, step, images, lower in _tuples(last, key + measured):
        mine = found.setdefault(tuple(named), Last(step, bool(lower)))
        mine.images = max(mine.images, images)
        mine.costs.setdefault(nfe, {}).setdefault(precond, {})[seed] = cost
    return found


def _tuples(frame: pd.DataFrame, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    """The rows of a frame as tuples, which takes a tenth of the time of `itertuples`."""
    return zip(*(frame[name].tolist() for name in columns), strict=True)


def _ranked(
    last: Last, planned: dict[str, dict[int, str]], twins: dict[str, str]
) -> list[dict[str, Any]]:
    """The rows of one problem and protocol, without the combined rank.

    `planned` maps preconditioning and seed to the state of that cell.
    """
    records = []
    for nfe, costs in last.costs.items():
        complete = {
            name: costs[name]
            for name, states in planned.items()
            if len(costs.get(name, {})) == len(states)
        }
        ranked = ranks(complete, twins)
        shared = Counter(ranked.values())
        for precond, states in planned.items():
            mine, rank = costs.get(precond, {}), ranked.get(precond)
            records.append(
                {
                    "nfe": nfe,
                    "precond": precond,
                    "same_as": twins.get(precond, ""),
                    **spread(list(mine.values()), last.lower_is_better),
                    "seeds": len(mine),
                    "seeds_planned": len(states),
                    "diverged": sum(cost == math.inf for cost in mine.values()),
                    "coverage": _covered(mine, states),
                    "step": last.step,
                    "images": last.images,
                    "lower_is_better": last.lower_is_better,
                    "rank": rank,
                    "tied": shared[rank] > 1 if rank else False,
                }
            )
    return records


def _twins(marks: dict[tuple[str, str], str], teacher: str) -> dict[str, str]:
    """preconditioning -> the earlier one with the same coefficients, for one teacher."""
    return {precond: twin for (name, precond), twin in marks.items() if name == teacher}


def _combined(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add mean rank over NFEs and its order, for those with a rank at every NFE.

    As in `ranks`, preconditionings with equal coefficients count once.
    """
    by_name: dict[str, list[int | None]] = {}
    for record in records:
        by_name.setdefault(record["precond"], []).append(record["rank"])
    means = {
        name: sum(ranks) / len(ranks)  # type: ignore[arg-type]
        for name, ranks in by_name.items()
        if None not in ranks
    }
    functions = {record["precond"]: record["same_as"] or record["precond"] for record in records}
    apart = {functions[name]: mean for name, mean in means.items()}
    order = {name: 1 + sum(m < mean for m in apart.values()) for name, mean in means.items()}
    return [
        record
        | {
            "mean_rank": means.get(record["precond"], math.nan),
            "combined_rank": order.get(record["precond"]),
        }
        for record in records
    ]


def spread(costs: list[float], lower: bool) -> dict[str, float]:
    """Median, lowest and highest value in the metric's sign; a diverged seed is inf (or -inf)."""
    if not costs:
        return dict.fromkeys(("median", "low", "high"), math.nan)
    ordered = sorted(costs)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    low, high = (ordered[0], ordered[-1]) if lower else (-ordered[-1], -ordered[0])
    return {"median": middle if lower else -middle, "low": low, "high": high}


def _covered(mine: dict[int, float], states: dict[int, str]) -> str:
    """Seeds with a number, and states of the others: `3 of 3`, `1 of 3 (1 diverged, 1 queued)`."""
    absent = [state for seed, state in states.items() if mine.get(seed, math.inf) == math.inf]
    why = Counter(state if state != State.DONE else "without it" for state in absent)
    told = ", ".join(f"{count} {state}" for state, count in why.items())
    return f"{len(states) - len(absent)} of {len(states)}" + (f" ({told})" if told else "")


def coverage(cells: pd.DataFrame, skips: list[dict[str, str]]) -> pd.DataFrame:
    """One row per preconditioning and problem: cells by state, numbers, reasons for the rest."""
    records = []
    for key, group in cells.groupby([*PROBLEM, "precond"], sort=False):
        reasons = sorted({reason for reason in group["reason"] if reason})
        records.append(
            {
                **dict(zip([*PROBLEM, "precond"], key, strict=True)),
                "cells": len(group),
                "done": int((group["state"] == "done").sum()),
                "states": ", ".join(
                    f"{count} {state}" for state, count in group["state"].value_counts().items()
                ),
                "numbers": f"{group['have'].sum()} of {group['wanted'].sum()}",
                "reasons": "; ".join(reasons),
                "hardware": _distinct(group["hardware"]),
                "commit": _distinct(group["commit"]),
            }
        )
    for skip in skips:
        cell, reason = visible(skip["cell"]), visible(skip["reason"])
        records.append({"precond": cell, "states": "skipped", "reasons": reason})
    return pd.DataFrame(records)


def _distinct(values: pd.Series) -> str:
    return "; ".join(sorted({value for value in values if value}))
