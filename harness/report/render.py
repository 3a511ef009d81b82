"""Lay out the long tables for people: names as rows, NFEs as columns, per problem and protocol."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.report.comparisons import CURVE
from harness.report.frame import PROBLEM, PROTOCOL
from harness.report.profile import NEAR
from harness.report.speed import LAST
from harness.report.styles import Paragraph, Table
from harness.report.words import (
    OVERALL,
    RANK,
    area_cell,
    bounds,
    chance,
    end_cell,
    images_cell,
    lead_cell,
    leads,
    level,
    named_cell,
    speed_cell,
    trained,
    worth,
)
from harness.store.records import PUBLISHED

GROUP = [*PROBLEM, *PROTOCOL]
Row = dict[str, Any]
Piece = Table | Paragraph


def pieces(table: str, frame: pd.DataFrame, baseline: str, notes: Sequence[str]) -> list[Piece]:
    """The tables and paragraphs of one of the long tables, for any style."""
    write: dict[str, Callable[[], Iterable[Piece]]] = {
        "leaderboard": lambda: _leaderboard(frame),
        "speed": lambda: _speed(frame, baseline),
        "profile": lambda: _profile(frame, baseline),
        "area": lambda: _area(frame, baseline),
        "coverage": lambda: _coverage(frame, notes),
    }
    return list(write[table]())


def render(found: Iterable[Piece], extension: str) -> str:
    """The pieces of a table as text in a style of `STYLES`."""
    return "\n".join(piece.text(extension) for piece in found)


def _leaderboard(board: pd.DataFrame) -> Iterable[Piece]:
    """The leaderboard: median [lowest, highest] (rank), and the rank over all NFEs."""
    if board.empty:
        yield Paragraph("No evaluation yet: the leaderboard is empty.")
        return
    for key, group in _groups(board, GROUP):
        span = f"at {max(row['images'] for row in group):,} images"
        if group[0]["objective"] == PUBLISHED:
            span = "published models, trained elsewhere"
        title = _title("Leaderboard", key, f"{span}; {_better(group)} is better")
        ordered = sorted(group, key=lambda row: (row["nfe"], *_nan_last(row["mean_rank"])))
        last = _overall(ordered) if ordered[0]["nfe"] != ordered[-1]["nfe"] else {}
        yield _pivot(title, ordered, _board_cell, last | _fewest(ordered))
    words = ("Median over seeds [lowest, highest] (rank).", RANK, OVERALL, chance(board))
    yield Paragraph(" ".join(filter(None, words)))


def _speed(speed: pd.DataFrame, baseline: str) -> Iterable[Piece]:
    """The speed table: speed-up over the baseline, its interval, and the cost of calibration."""
    if speed.empty:
        yield Paragraph(f"No training-speed table: no seed of {baseline!r} is complete.")
        return
    for key, group in _groups(speed, [*GROUP, "target"]):
        goal = f"{baseline}'s last value" if key[-1] == LAST else key[-1]
        title = _title("Training speed", key[:-1], f"to reach {goal}; {_trained(group)}")
        cost: dict[str, float] = {}
        for row in group:
            seconds = row["calibration_seconds"]
            cost[row["precond"]] = max(seconds, cost.get(row["precond"], seconds))
        told = {name: f"{seconds:.1f} s" if seconds else "none" for name, seconds in cost.items()}
        yield _pivot(title, group, speed_cell, {"calibration": told})
    yield Paragraph(
        f"Speed-up = images {baseline} needs / images the preconditioning needs, paired by seed:"
        f" median [bootstrap interval]{worth(speed)}.\n{bounds(baseline)}"
    )


def _profile(profile: pd.DataFrame, baseline: str) -> Iterable[Piece]:
    """The profile: speed-up at some of the levels, one table per NFE; the csv has all levels."""
    if profile.empty:
        yield Paragraph(f"No speed-ups by quality: no seed of {baseline!r} is complete.")
        return
    for key, group in _groups(profile[profile["level"].isin(LEVELS)], CURVE):
        more = f"NFE {key[-1]}; {_trained(group)}; {_better(group)} is better"
        title = _title("Speed-up by quality", key[:-1], more)
        yield Table(title, _by_level(group, baseline), ("precond", "leads"))
    yield Paragraph(
        "Levels of quality, from easy to hard. 1/4, 1/2, 3/4, best: so far on the way (in log) from"
        f" {baseline}'s first value to the best that any reaches, medians over seeds."
        f" {baseline}'s last: what {baseline} of that seed ends with; 10 %: that much worse than"
        " its best."
        f"\nSpeed-up = images {baseline} needs / images the preconditioning needs until its curve"
        f" first reaches the level, paired by seed: median [bootstrap interval]{worth(profile)}."
        f" The row of {baseline} has its images. {bounds(baseline)}"
        f"\n{leads(baseline)} End: quality at the end of training, median over seeds [bootstrap"
        " interval]."
    )


#: levels in the text table, by their name in profile.csv; {} is the baseline
LEVELS = {"1/4": "1/4", "1/2": "1/2", "3/4": "3/4", "1": "best", LAST: "{}'s last", NEAR: "10 %"}


def _by_level(rows: list[Row], baseline: str) -> list[dict[str, str]]:
    """Names as rows, levels as columns, then the lead and the quality at the end."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["precond"], {})[row["level"]] = row
    values = {name: row["target_value"] for name, row in found[baseline].items()}
    lower = rows[0]["lower_is_better"]
    levels = sorted(
        (name for name, value in values.items() if not math.isnan(value)),
        key=lambda name: -values[name] if lower else values[name],
    )
    heads = {name: f"{level(values[name])} ({LEVELS[name].format(baseline)})" for name in levels}
    table = []
    for precond, mine in found.items():
        row = next(iter(mine.values()))
        cell = images_cell if precond == baseline else speed_cell
        cells = {heads[name]: cell(mine[name]) for name in levels}
        ends = {"leads": lead_cell(row, baseline), "at the end": end_cell(row)}
        table.append({"precond": named_cell(row), **cells, **ends})
    return table


def _area(areas: pd.DataFrame, baseline: str) -> Iterable[Piece]:
    """Area to the baseline's curve on a log axis of images."""
    if areas.empty:
        yield Paragraph(f"No areas: no seed of {baseline!r} is complete.")
        return
    for key, group in _groups(areas, GROUP):
        first = min(row["images_first"] for row in group)
        last = max(row["images_last"] for row in group)
        title = _title(f"Area to {baseline}'s curve", key, f"{first:,} to {last:,} images")
        yield _pivot(title, group, area_cell, {})
    yield Paragraph(
        f"Mean of log({baseline}'s value / the preconditioning's) over log images, signed so that"
        f" above 0 is better, paired by seed: median [bootstrap interval]{worth(areas)}."
    )


def _coverage(coverage: pd.DataFrame, notes: Sequence[str]) -> Iterable[Piece]:
    """The coverage table: cells by state, and all notes."""
    shown = coverage.drop(columns=["hardware", "commit", "done"], errors="ignore").fillna("")
    if "setting" in shown and not (shown["setting"] != "").any():
        shown = shown.drop(columns="setting")
    rows = [{str(key): value for key, value in row.items()} for row in shown.to_dict("records")]
    yield Table("Coverage", rows, list(map(str, shown)))
    for origin in _origins(coverage):
        yield Paragraph(origin, named=True)
    for note in notes:
        yield Paragraph(f"Note: {note}.", named=True, code=True)


def _origins(coverage: pd.DataFrame) -> Iterable[str]:
    """Provenance of the numbers: hardware, and commits of the harness."""
    for name, column in (("Hardware", "hardware"), ("Commits of the harness", "commit")):
        if column in coverage:
            values = coverage[column].dropna().str.split("; ").explode()
            found = list(dict.fromkeys(value for value in values if value))
            if found:
                yield f"{name}: {'; '.join(found)}."


def _groups(frame: pd.DataFrame, key: list[str]) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    """The rows of a frame by columns `key`, in order; much faster than groups of pandas."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    names = list(frame)
    for values in zip(*(frame[name].tolist() for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        found.setdefault(tuple(row[name] for name in key), []).append(row)
    return found.items()


def _pivot(
    title: str,
    group: list[Row],
    cell: Callable[[Row], str],
    last: dict[str, dict[str, str]],
) -> Table:
    """A table with names as rows, NFEs as columns, then the columns of `last`."""
    rows: dict[str, dict[str, str]] = {}
    for row in group:
        mine = rows.setdefault(row["precond"], {"precond": named_cell(row)})
        mine[f"NFE {row['nfe']}"] = cell(row)
    for heading, values in last.items():
        for name, mine in rows.items():
            mine[heading] = values.get(name, "—")
    return Table(title, list(rows.values()), ("precond",))


def _board_cell(row: dict[str, Any]) -> str:
    if not row["seeds"]:
        return "—"
    number = "diverged" if math.isinf(row["median"]) else f"{row['median']:.4g}"
    spread = f" [{row['low']:.4g}, {row['high']:.4g}]" if row["seeds"] > 1 else ""
    if pd.isna(row["rank"]):
        return f"{number}{spread} ({row['seeds']} of {row['seeds_planned']} seeds)"
    return f"{number}{spread} ({row['rank']}{'=' if row['tied'] else ''})"


def _overall(ordered: list[Row]) -> dict[str, dict[str, str]]:
    """Column `overall`: the rank over all NFEs."""
    ranked = {row["precond"]: row for row in ordered if not pd.isna(row["combined_rank"])}
    shared = Counter(row["combined_rank"] for row in ranked.values())
    return {
        "overall": {
            name: f"{rank}{'=' if shared[rank] > 1 else ''} (mean {row['mean_rank']:.2g})"
            for name, row in ranked.items()
            if (rank := row["combined_rank"])
        }
    }


def _fewest(ordered: list[Row]) -> dict[str, dict[str, str]]:
    """Column `seeds`: the coverage at the NFE with the fewest numbers."""
    fewest: dict[str, Row] = {}
    for row in sorted(ordered, key=lambda row: (row["seeds"], -row["diverged"])):
        fewest.setdefault(row["precond"], row)
    return {"seeds": {name: row["coverage"] for name, row in fewest.items()}}


def _better(group: list[Row]) -> str:
    return "lower" if all(row["lower_is_better"] for row in group) else "higher"


def _trained(group: list[Row]) -> str:
    return trained(max(row["images_last"] for row in group))


def _nan_last(value: float) -> tuple[bool, float]:
    return math.isnan(value), 0.0 if math.isnan(value) else value


def name_problem(named: Mapping[str, Any]) -> str:
    """Name of a problem: teacher / objective / dataset, and the training settings that differ."""
    name = f"{named['teacher']} / {named['objective']} / {named['dataset']}"
    return name + (f" ({named['setting']})" if named["setting"] else "")


def name_protocol(named: Mapping[str, Any]) -> str:
    """Name of a protocol: metric, extractor, number of samples, and how these were drawn."""
    against = f" against {named['reference_n']}" if named["reference_n"] != named["n"] else ""
    ema = f", EMA {named['ema']}" if named["ema"] else ""
    seed = f", evaluation seed {named['eval_seed']}" if named["eval_seed"] else ""
    return (
        f"{named['metric']}, {named['extractor']}, n={named['n']}{against},"
        f" sampler {named['sampler']}{ema}{seed}"
    )


def _title(what: str, key: Iterable[Any], more: str) -> str:
    named = dict(zip(GROUP, key, strict=True))
    return f"{what}: {name_problem(named)}; {name_protocol(named)}; {more}"
