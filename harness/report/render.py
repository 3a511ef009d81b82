"""Render the long tables as text: strategies as rows, NFEs as columns, per problem and protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness.report.comparisons import CURVE
from harness.report.frame import PROBLEM, PROTOCOL
from harness.report.profile import NEAR
from harness.report.speed import LAST
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
    trained_for,
    worth,
)
from harness.store.records import PUBLISHED

#: extension -> tabulate's name of the style
STYLES = {"txt": "simple", "md": "github", "tex": "latex_booktabs"}
GROUP = [*PROBLEM, *PROTOCOL]


def render(
    table: str, frame: pd.DataFrame, baseline: str, notes: Sequence[str], extension: str
) -> str:
    """One of the long tables as text in a style of `STYLES`."""
    write: dict[str, Callable[[], Iterable[str]]] = {
        "leaderboard": lambda: _leaderboard(frame, extension),
        "speed": lambda: _speed(frame, baseline, extension),
        "profile": lambda: _profile(frame, baseline, extension),
        "area": lambda: _area(frame, baseline, extension),
        "coverage": lambda: _coverage(frame, notes, extension),
    }
    return "\n".join(write[table]())


def _leaderboard(board: pd.DataFrame, extension: str) -> Iterable[str]:
    """The leaderboard: median [lowest, highest] (rank), and the rank over all NFEs."""
    if board.empty:
        yield _plain("No evaluation yet: the leaderboard is empty.", extension)
        return
    for key, group in board.groupby(GROUP, sort=False):
        better = "lower" if group["lower_is_better"].all() else "higher"
        trained = f"at {int(group['images'].max()):,} images"
        if group["objective"].iloc[0] == PUBLISHED:
            trained = "published models, trained elsewhere"
        title = _title("Leaderboard", key, f"{trained}; {better} is better", extension)
        ordered = group.sort_values(["nfe", "mean_rank"], na_position="last")
        last = _overall(ordered) if group["nfe"].nunique() > 1 else {}
        yield _pivot(title, ordered, _board_cell, extension, last | _fewest(ordered))
    words = ("Median over seeds [lowest, highest] (rank).", RANK, OVERALL, chance(board))
    yield _plain(" ".join(filter(None, words)), extension)


def _speed(speed: pd.DataFrame, baseline: str, extension: str) -> Iterable[str]:
    """The speed table: speed-up over the baseline, its interval, and the cost of calibration."""
    if speed.empty:
        yield _plain(f"No training-speed table: no seed of {baseline!r} is complete.", extension)
        return
    for key, group in speed.groupby([*GROUP, "target"], sort=False):
        goal = f"{baseline}'s last value" if key[-1] == LAST else key[-1]
        span = f"to reach {goal}; {trained_for(group)}"
        title = _title("Training speed", key[:-1], span, extension)
        cost = group.groupby("precond")["calibration_seconds"].max()
        told = {str(name): f"{s:.1f} s" if s else "none" for name, s in cost.items()}
        last = {"calibration": told}
        yield _pivot(title, group, speed_cell, extension, last)
    yield _plain(
        f"Speed-up = images {baseline} needs / images the strategy needs, paired by seed:"
        f" median [bootstrap interval]{worth(speed)}.\n{bounds(baseline)}",
        extension,
    )


def _profile(profile: pd.DataFrame, baseline: str, extension: str) -> Iterable[str]:
    """The profile: speed-up at some of the levels, one table per NFE; the csv has all levels."""
    if profile.empty:
        yield _plain(f"No speed-ups by quality: no seed of {baseline!r} is complete.", extension)
        return
    shown = profile[profile["level"].isin(LEVELS)]
    told = shown.drop(columns=CURVE).to_dict("records")
    rows = dict(zip(shown.index, told, strict=True))
    for key, group in shown.groupby([*GROUP, "nfe"], sort=False):
        better = "lower" if group["lower_is_better"].all() else "higher"
        more = f"NFE {key[-1]}; {trained_for(group)}; {better} is better"
        title = _title("Speed-up by quality", key[:-1], more, extension)
        table = _by_level([rows[index] for index in group.index], baseline, extension)
        yield _table(title, table, extension)
    yield _plain(
        "Levels of quality, from easy to hard. 1/4, 1/2, 3/4, best: so far on the way (in log) from"
        f" {baseline}'s first value to the best that any strategy reaches, medians over seeds."
        f" {baseline}'s last: what {baseline} of that seed ends with; 10 %: that much worse than"
        " its best."
        f"\nSpeed-up = images {baseline} needs / images the strategy needs until its curve first"
        f" reaches the level, paired by seed: median [bootstrap interval]{worth(profile)}."
        f" The row of {baseline} has its images. {bounds(baseline)}"
        f"\n{leads(baseline)} End: quality at the end of training, median over seeds [bootstrap"
        " interval].",
        extension,
    )


#: levels in the text table, by their name in profile.csv; {} is the baseline
LEVELS = {"1/4": "1/4", "1/2": "1/2", "3/4": "3/4", "1": "best", LAST: "{}'s last", NEAR: "10 %"}


def _by_level(rows: list[dict[str, Any]], baseline: str, extension: str) -> list[dict[str, str]]:
    """Strategies as rows, levels as columns, then the lead and the quality at the end."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["precond"], {})[row["level"]] = row
    values = {name: row["target_value"] for name, row in found[baseline].items()}
    lower = rows[0]["lower_is_better"]
    levels = sorted(
        (name for name, value in values.items() if not math.isnan(value)),
        key=lambda name: -values[name] if lower else values[name],
    )
    shown = _words(baseline, extension)
    heads = {name: f"{level(values[name])} ({LEVELS[name].format(shown)})" for name in levels}
    table = []
    for precond, mine in found.items():
        row = next(iter(mine.values()))
        cell = images_cell if precond == baseline else speed_cell
        cells = {heads[name]: cell(mine[name]) for name in levels}
        ends = {"leads": lead_cell(row, shown), "at the end": end_cell(row)}
        table.append({"precond": _words(named_cell(row), extension), **cells, **ends})
    return table


def _area(areas: pd.DataFrame, baseline: str, extension: str) -> Iterable[str]:
    """Area to the baseline's curve on a log axis of images."""
    if areas.empty:
        yield _plain(f"No areas: no seed of {baseline!r} is complete.", extension)
        return
    for key, group in areas.groupby(GROUP, sort=False):
        span = f"{int(group['images_first'].min()):,} to {int(group['images_last'].max()):,} images"
        title = _title(f"Area to {baseline}'s curve", key, span, extension)
        yield _pivot(title, group, area_cell, extension, {})
    yield _plain(
        f"Mean of log({baseline}'s value / the strategy's) over log images, signed so that above 0"
        f" is better, paired by seed: median [bootstrap interval]{worth(areas)}.",
        extension,
    )


def _coverage(coverage: pd.DataFrame, notes: Sequence[str], extension: str) -> Iterable[str]:
    """The coverage table: cells by state, and all notes."""
    shown = coverage.drop(columns=["hardware", "commit", "done"], errors="ignore").fillna("")
    if "setting" in shown and not (shown["setting"] != "").any():
        shown = shown.drop(columns="setting")
    rows = [
        {str(key): _words(value, extension) for key, value in row.items()}
        for row in shown.to_dict("records")
    ]
    yield _table("Coverage", rows, extension)
    for origin in _origins(coverage):
        yield _plain(_words(origin, extension), extension)
    for note in notes:  # which have code of their own between backticks
        yield _plain(f"Note: {_words(note, extension, code=True)}.", extension)


def _origins(coverage: pd.DataFrame) -> Iterable[str]:
    """Provenance of the numbers: hardware, and commits of the harness."""
    for name, column in (("Hardware", "hardware"), ("Commits of the harness", "commit")):
        if column in coverage:
            values = coverage[column].dropna().str.split("; ").explode()
            found = list(dict.fromkeys(value for value in values if value))
            if found:
                yield f"{name}: {'; '.join(found)}."


def _pivot(
    title: str,
    group: pd.DataFrame,
    cell: Callable[[Any], str],
    extension: str,
    last: dict[str, dict[str, str]],
) -> str:
    """A table with strategies as rows, NFEs as columns, then the columns of `last`."""
    rows: dict[str, dict[str, str]] = {}
    for row in group.to_dict("records"):
        label = _words(named_cell(row), extension)
        mine = rows.setdefault(row["precond"], {"precond": label})
        mine[f"NFE {row['nfe']}"] = cell(row)
    for heading, values in last.items():
        for name, mine in rows.items():
            mine[heading] = values.get(name, "—")
    return _table(title, list(rows.values()), extension)


def _board_cell(row: dict[str, Any]) -> str:
    if not row["seeds"]:
        return "—"
    number = "diverged" if math.isinf(row["median"]) else f"{row['median']:.4g}"
    spread = f" [{row['low']:.4g}, {row['high']:.4g}]" if row["seeds"] > 1 else ""
    if pd.isna(row["rank"]):
        return f"{number}{spread} ({row['seeds']} of {row['seeds_planned']} seeds)"
    return f"{number}{spread} ({row['rank']}{'=' if row['tied'] else ''})"


def _overall(board: pd.DataFrame) -> dict[str, dict[str, str]]:
    first = board.drop_duplicates("precond").set_index("precond")
    shared = first["combined_rank"].value_counts()
    return {
        "overall": {
            str(name): f"{rank}{'=' if shared[rank] > 1 else ''} (mean {mean:.2g})"
            for name, rank, mean in first[["combined_rank", "mean_rank"]].itertuples()
            if not pd.isna(rank)
        }
    }


def _fewest(board: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Column `seeds`: the coverage of a strategy at the NFE where it has the fewest numbers."""
    ordered = board.sort_values(["seeds", "diverged"], ascending=[True, False], kind="stable")
    first = ordered.drop_duplicates("precond")
    return {"seeds": dict(zip(first["precond"], first["coverage"], strict=True))}


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


def _title(what: str, key: Any, more: str, extension: str) -> str:
    named = dict(zip(GROUP, key, strict=True))
    return _words(f"{what}: {name_problem(named)}; {name_protocol(named)}; {more}", extension)


def _table(title: str, rows: list[dict[str, str]], extension: str) -> str:
    """A titled table; in LaTeX a float, no wider than a line, for booktabs and graphicx."""
    body = tabulate(
        rows,
        headers="keys",
        tablefmt=STYLES[extension],
        missingval="—",
        disable_numparse=True,
    )
    if extension != "tex":
        return f"\n{title}\n\n{body}\n"
    caption = "  \\caption{" + _escape(title) + "}"
    body = body.replace("—", "--")
    width = "\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi"
    body = f"\\resizebox{{{width}}}{{!}}{{%\n{body}}}"
    return f"\\begin{{table}}\n  \\centering\n{caption}\n{body}\n\\end{{table}}\n"


def _words(text: Any, extension: str, *, code: bool = False) -> Any:
    """Escape a label for Markdown; `code` keeps backticks.

    LaTeX is escaped when it is written; other formats need no escapes.
    """
    if extension != "md" or not isinstance(text, str):
        return text
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a bracket is one, unless it ends the words of a link
    text = re.sub(r"[\\*$~|]|\](?=[(\[])" + ("" if code else "|`"), r"\\\g<0>", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # within a word it is no emphasis


def _plain(text: str, extension: str) -> str:
    return _escape(text) + "\n" if extension == "tex" else text + "\n"


def _escape(text: str) -> str:
    """Escape plain text for LaTeX."""
    for sign, code in (
        ("\\", "\0"),
        *((sign, "\\" + sign) for sign in "&%$#_{}"),
        ("~", "\\textasciitilde{}"),
        ("^", "\\textasciicircum{}"),
        ("<", "\\ensuremath{<}"),
        (">", "\\ensuremath{>}"),
        ("\0", "\\textbackslash{}"),
    ):
        text = text.replace(sign, code)
    return text
