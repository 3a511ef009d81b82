"""Text of table cells and legends, the same in text tables and on the page."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.report.statistics import confidence

#: legend of ranks; `chance` states their reliability
RANK = (
    "A rank is 1 + the number of preconditionings that beat this one; one beats another if it is"
    " better beyond the noise between seeds (up to six seeds: with every seed). = marks a tie."
)
OVERALL = "Overall: order of the mean rank over NFEs."


def chance(board: pd.DataFrame) -> str:
    """Legend: probability that two that are equal get different ranks; empty for one seed."""
    ranked = board[board["rank"].notna()]
    told = [
        f"{1 - confidence(seeds):.0%} with {seeds} seeds"
        for seeds in sorted({int(seeds) for seeds in ranked["seeds"] if seeds > 1})
    ]
    if not told:
        return ""
    return (
        f"Two preconditionings that are equally good are ranked apart by chance: {', '.join(told)}."
    )


def bounds(baseline: str) -> str:
    """Legend of the marks `<`, `>` and `?` before a speed-up."""
    return (
        "<2 means at most 2: training ended before the preconditioning got there"
        f" (or {baseline} was there at its first evaluation)."
        f" >2 means at least 2: training ended before {baseline} got there"
        " (or the preconditioning was there at its first evaluation)."
        " ? means that neither limit is known: both were there at their first evaluation, or"
        " neither got there. An interval from 0 or to inf has no limit on that side."
    )


def leads(baseline: str) -> str:
    """Legend of the column of leads."""
    return (
        "Leads: from which quality to which the preconditioning needs fewer images than"
        f" {baseline} (the last such stretch), and what follows: the best (no preconditioning gets"
        " further), then slower (it needs as many images or more), then"
        f" {baseline} alone ({baseline} gets further, this one does not), then unknown (neither"
        " gets further, or the limits do not tell)."
    )


def worth(table: pd.DataFrame) -> str:
    """Legend: coverage of the intervals, per number of seeds in the table; empty if unknown."""
    found = table[["seeds", "confidence"]].dropna().drop_duplicates().sort_values("seeds")
    told = [
        f"{level:.0%} with {int(seeds)} seeds" for seeds, level in found.itertuples(index=False)
    ]
    return f", which holds the true median with probability {', '.join(told)}" if told else ""


def named_cell(row: dict[str, Any]) -> str:
    """Name of a preconditioning, with the earlier one that it equals."""
    name, twin = row["precond"], row["same_as"]
    return f"{name} (= {twin})" if twin else str(name)


def speed_cell(row: dict[str, Any]) -> str:
    """A speed-up, with its interval if informative: `1.45 [1.24, 1.60]`, `<1.00`, `?`."""
    if not row["seeds"]:
        return "—"
    value, low, high = row["speedup"], row["speedup_low"], row["speedup_high"]
    partial = _partial(row)
    if row["bound"] == "?":
        return f"?{partial}"
    number = "from the start" if math.isinf(value) else f"{row['bound']}{value:.2f}"
    told = {"<": (0.0, value), ">": (value, math.inf), "": (value, value)}[row["bound"]]
    if math.isnan(low) or (low, high) == told:
        return number + partial
    return f"{number} [{low:.2f}, {high:.2f}]{partial}"


def area_cell(row: dict[str, Any]) -> str:
    """An area and its interval: `+0.012 [-0.003, +0.020]`."""
    if math.isnan(row["area"]):
        return "—"
    low, high = row["area_low"], row["area_high"]
    some = "" if math.isnan(low) or low == high else f" [{_signed(low)}, {_signed(high)}]"
    return f"{_signed(row['area'])}{some}{_partial(row)}"


def images_cell(row: dict[str, Any]) -> str:
    """Images that the baseline needs: `61,440 images`, with the mark of a bound."""
    if not row["seeds"] or math.isnan(row["images"]):
        return "—"
    return f"{row['images_bound']}{row['images']:,.0f} images"


def lead_cell(row: dict[str, Any], baseline: str) -> str:
    """The range of a preconditioning's lead, and what follows: `0.47 to 0.0818, then slower`."""
    if math.isnan(row["lead_to"]):
        return "—"
    then = {"": "the best", "never": f"then {baseline} alone"}.get(
        row["lead_then"], f"then {row['lead_then']}"
    )
    return f"{level(row['lead_from'])} to {level(row['lead_to'])}, {then}"


def level(value: float) -> str:
    """A quality with three significant digits: `0.0818`, `2,190`."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def end_cell(row: dict[str, Any]) -> str:
    """Quality at the end of training and its interval: `0.0238 [0.0236, 0.0241]`."""
    if math.isnan(row["end"]):
        return "—"
    number = "diverged" if math.isinf(row["end"]) else f"{row['end']:.4g}"
    low, high = row["end_low"], row["end_high"]
    return number if math.isnan(low) else f"{number} [{low:.4g}, {high:.4g}]"


def trained_for(group: pd.DataFrame) -> str:
    """The training length to which a table applies."""
    return trained(int(group["images_last"].max()))


def trained(images: int) -> str:
    """A training length in words."""
    return f"trained for {images:,} images"


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def _partial(row: dict[str, Any]) -> str:
    seeds, planned = row["seeds"], row["seeds_planned"]
    return "" if seeds == planned else f" ({seeds:.0f} of {planned:.0f} seeds)"
