"""Leaderboard and coverage: the last budget, median and range over seeds, ranks, what is missing.

Ranks are per NFE, from paired seeds: the rank of a strategy is one plus the number of strategies
that are better beyond the noise between seeds (`is_better`). Strategies that the seeds do not
distinguish share a rank. The combined rank is the order of the mean rank over NFEs.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import Any

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL, settled
from harness.report.speed import twins_of
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
    """One row per (problem, protocol, NFE, planned strategy) at the last budget of the protocol.

    Only strategies with all their seeds have a rank; others are shown without one. A diverged seed
    counts as worse than every number. Strategies with equal coefficients share the better rank.
    """
    if rows.empty:
        return pd.DataFrame(columns=BOARD_COLUMNS)
    rows = settled(rows, cells)
    planned: dict[tuple[str, ...], dict[str, dict[int, str]]] = {}
    for *problem, precond, seed, state in cells[[*PROBLEM, "precond", "seed", "state"]].itertuples(
        index=False
    ):
        planned.setdefault(tuple(problem), {}).setdefault(precond, {})[seed] = state
    tables = []
    for protocol, group in rows.groupby([*PROBLEM, *PROTOCOL], sort=True):
        last = group[group["step"] == group["step"].max()]
        where: dict[str, Any] = dict(zip([*PROBLEM, *PROTOCOL], protocol, strict=True))
        mine = planned[tuple(where[axis] for axis in PROBLEM)]
        if where["objective"] == PUBLISHED:  # each is sampled as it can be
            mine = {name: mine[name] for name in mine if name in set(group["precond"])}
        twins = twins_of(marks, where["teacher"])
        records = _combined(_at_last(last, mine, twins))
        tables.append(pd.DataFrame([where | record for record in records]))
    board = pd.concat(tables, ignore_index=True)
    board = board.astype({"rank": "Int64", "combined_rank": "Int64"})
    order = [*PROBLEM, *PROTOCOL, "nfe", "rank", "median", "precond"]
    return board.sort_values(order, na_position="last")[BOARD_COLUMNS].reset_index(drop=True)


def ranks(costs: dict[str, dict[int, float]], twins: dict[str, str]) -> dict[str, int]:
    """strategy -> 1 + number of strategies better than it, from costs by strategy and seed.

    `twins` maps a strategy to an earlier one with the same coefficients. The earlier one represents
    both and counts once, so that they have the same rank and do not lower others twice. Only seeds
    that two strategies have in common are compared.
    """
    stands = {name: twin if (twin := twins.get(name, name)) in costs else name for name in costs}
    better: Counter[str] = Counter()
    for mine, theirs in permutations(dict.fromkeys(stands.values()), 2):
        seeds = sorted(costs[mine].keys() & costs[theirs].keys())
        if is_better([costs[theirs][s] for s in seeds], [costs[mine][s] for s in seeds]):
            better[mine] += 1
    return {name: 1 + better[stands[name]] for name in costs}


def _at_last(
    last: pd.DataFrame, planned: dict[str, dict[int, str]], twins: dict[str, str]
) -> list[dict[str, Any]]:
    """The rows of one problem and protocol, without the combined rank.

    `planned` maps strategy and seed to the state of that cell.
    """
    lower = bool(last["lower_is_better"].iloc[0])
    step, images = last["step"].max(), last["images"].max()
    records = []
    for nfe, group in last.groupby("nfe", sort=True):
        costs: dict[str, dict[int, float]] = {}
        for precond, seed, cost in group[["precond", "seed", "cost"]].itertuples(index=False):
            costs.setdefault(precond, {})[seed] = cost
        complete = {}
        shown = []
        for precond, states in planned.items():
            mine = costs.get(precond, {})
            if len(mine) == len(states):
                complete[precond] = mine
            shown.append(
                {
                    "nfe": nfe,
                    "precond": precond,
                    "same_as": twins.get(precond, ""),
                    **spread(list(mine.values()), lower),
                    "seeds": len(mine),
                    "seeds_planned": len(states),
                    "diverged": sum(cost == math.inf for cost in mine.values()),
                    "coverage": _covered(mine, states),
                    "step": step,
                    "images": images,
                    "lower_is_better": lower,
                }
            )
        ranked = ranks(complete, twins)
        shared = Counter(ranked.values())
        for record in shown:
            rank = ranked.get(str(record["precond"]))
            records.append(record | {"rank": rank, "tied": shared[rank] > 1 if rank else False})
    return records


def _combined(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add mean rank over NFEs and its order, for strategies with a rank at every NFE.

    As in `ranks`, strategies with equal coefficients count once.
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
    """One row per strategy and problem: cells by state, numbers present, reasons for the rest."""
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
