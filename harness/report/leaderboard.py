"""Leaderboard and coverage: the last budget, median and range over seeds, what is missing."""

from __future__ import annotations

import pandas as pd

from harness.report.frame import PROBLEM, PROTOCOL

BOARD_COLUMNS = [
    *PROBLEM,
    *PROTOCOL,
    "nfe",
    "rank",
    "precond",
    "same_as",
    "median",
    "low",
    "high",
    "seeds",
    "seeds_planned",
    "step",
    "images",
    "lower_is_better",
]


def leaderboard(
    rows: pd.DataFrame, cells: pd.DataFrame, marks: dict[tuple[str, str], str]
) -> pd.DataFrame:
    """One row per (problem, protocol, NFE, strategy) at the last budget.

    Ranks are by the median over seeds and only among strategies with all their seeds: a partial
    row is shown, without a rank. Strategies with equal coefficients share the better rank.
    """
    if rows.empty:
        return pd.DataFrame(columns=BOARD_COLUMNS)
    last = rows[rows["step"] == rows["step"].max()]
    keys = [*PROBLEM, *PROTOCOL, "nfe", "precond"]
    board = (
        last.groupby(keys, sort=False)
        .agg(
            median=("value", "median"),
            low=("value", "min"),
            high=("value", "max"),
            seeds=("seed", "nunique"),
            step=("step", "max"),
            images=("images", "max"),
            lower_is_better=("lower_is_better", "first"),
        )
        .reset_index()
    )
    planned = cells.groupby([*PROBLEM, "precond"])["seed"].nunique().rename("seeds_planned")
    board = board.merge(planned.reset_index(), on=[*PROBLEM, "precond"])
    board["same_as"] = [
        marks.get((teacher, precond), "")
        for teacher, precond in zip(board["teacher"], board["precond"], strict=True)
    ]
    signed = board["median"].where(board["lower_is_better"], -board["median"])
    signed = signed.where(board["seeds"] == board["seeds_planned"])
    group = [board[key] for key in [*PROBLEM, *PROTOCOL, "nfe"]]
    name = board["same_as"].where(board["same_as"] != "", board["precond"])
    best = signed.groupby([*group, name]).transform("min")
    board["rank"] = best.groupby(group).rank(method="min").astype("Int64")
    order = [*PROBLEM, *PROTOCOL, "nfe", "rank", "precond"]
    return board.sort_values(order, na_position="last")[BOARD_COLUMNS].reset_index(drop=True)


def coverage(cells: pd.DataFrame, skips: list[dict[str, str]]) -> pd.DataFrame:
    """One row per strategy and problem: cells by state, numbers present, reasons of what is not."""
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
            }
        )
    for skip in skips:
        records.append({"precond": skip["cell"], "states": "skipped", "reasons": skip["reason"]})
    return pd.DataFrame(records)
