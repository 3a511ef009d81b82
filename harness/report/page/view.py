"""What the page shows, as plain data for its template."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from harness.report import words
from harness.report.frame import PROBLEM
from harness.report.page.charts import charts, drawn
from harness.report.page.pictures import pictures
from harness.report.page.places import Places, records
from harness.report.page.tables import areas, boards, leads, speeds
from harness.report.plots.style import COLOURS, PlotStyle
from harness.report.render import name_problem, name_protocol
from harness.report.write import Report
from harness.store.run import Run
from harness.visible import visible


def view(report: Report, looks: dict[str, PlotStyle], folder: Path) -> dict[str, Any]:
    """The template's variables, for a page in `folder`."""
    places = Places.of(report)
    return {
        "grid": report.grid,
        "baseline": report.baseline,
        "summary": _summary(report),
        "notes": report.notes,
        "conflicts": records(report.conflicts),
        "problems": _menu(places.problems),
        "problem_names": [name_problem(named) for named in places.problems],
        "protocols": [name_protocol(named) for named in places.protocols],
        "nfes": sorted(int(nfe) for nfe in report.leaderboard["nfe"].unique()),
        "boards": list(boards(report, places)),
        "speeds": list(speeds(report, places)),
        "leads": list(leads(report, places)),
        "areas": list(areas(report, places)),
        "words": _words(report),
        "looks": {name: number for number, name in enumerate(looks)},
        "titles": {name: look.legend for name, look in looks.items()},
        "drawn": [drawn(look) for look in looks.values()],
        "charts": charts(report, places, looks),
        **pictures(report, looks),
        "colours": COLOURS,
        "coverage": _coverage(report),
        "runs": list(_runs(report, places, folder)),
        "origins": _origins(report),
        "yaml": "\n".join(map(visible, _yaml(report.matrix["grid"]).split("\n"))),
    }


def _yaml(grid: dict[str, Any]) -> str:
    return yaml.safe_dump(grid, sort_keys=False, allow_unicode=True)


def _words(report: Report) -> dict[str, str]:
    """The legends that the text tables have below them."""
    return {
        "rank": " ".join(
            filter(None, (words.RANK, words.OVERALL, words.chance(report.leaderboard)))
        ),
        "bounds": words.bounds(report.baseline),
        "leads": words.leads(report.baseline),
        "speed": words.worth(report.speed),
        "profile": words.worth(report.profile),
        "area": words.worth(report.area),
    }


def _menu(places: list[dict[str, Any]]) -> list[str]:
    """Labels of problems: the single axis in which they differ (else the teacher), or all axes."""
    varying = [axis for axis in PROBLEM if len({named[axis] for named in places}) > 1]
    if len(varying) > 1:
        return [name_problem(named) for named in places]
    return [str(named[varying[0] if varying else "teacher"]) for named in places]


def _summary(report: Report) -> list[tuple[str, str]]:
    """The grid in a few figures: (number, what it counts)."""
    cells = report.cells
    done = int((cells["state"] == "done").sum())
    dates = sorted(date[:10] for date in cells["date"] if date)
    span = f"{dates[0]} to {dates[-1]}" if dates and dates[0] != dates[-1] else "".join(dates[:1])
    return [
        (str(cells["precond"].nunique()), "preconditionings"),
        (
            str(cells["teacher"].nunique()),
            "teachers" if cells["teacher"].nunique() > 1 else "teacher",
        ),
        (str(cells["seed"].nunique()), "seeds" if cells["seed"].nunique() > 1 else "seed"),
        (f"{done} of {len(cells)}", "cells done"),
        (f"{cells['have'].sum():,} of {cells['wanted'].sum():,}", "numbers"),
        *([(span, "trained")] if span else []),
    ]


def _coverage(report: Report) -> dict[str, Any]:
    """The coverage table, without columns that are empty or shown elsewhere."""
    table = report.coverage.drop(columns=["hardware", "commit"], errors="ignore").fillna("")
    table = table.loc[:, [column for column in table if (table[column] != "").any()]]
    return {"columns": list(table.columns), "rows": table.astype(str).to_numpy().tolist()}


def _runs(report: Report, places: Places, folder: Path) -> Iterator[dict[str, Any]]:
    """Every cell with its state, and links to its files relative to `folder`.

    There is no link if the two have only the root of the file system in common: it would work on
    this machine only, and publish the names of its folders.
    """
    names, labels = map(name_problem, places.problems), _menu(places.problems)
    addresses = {name: _address(label) for name, label in zip(names, labels, strict=True)}
    for cell in records(report.cells):
        files = {}
        for name in ("provenance.json", "spec.json", "eval.jsonl", "train.jsonl"):
            path = (Path(cell["folder"]) / name).resolve()
            near = os.path.commonpath([path, folder.resolve()]) != path.anchor
            if cell["folder"] and near and path.exists():
                relative = Path(os.path.relpath(path, folder.resolve())).as_posix()
                files[name.partition(".")[0]] = quote(relative)
        name = name_problem(cell)
        yield {**cell, "problem": name, "address": addresses[name], "files": files}


def _address(label: str) -> str:
    """The fragment of the page's address that opens a problem."""
    return f"#problem={quote(label, safe='')}"


def _origins(report: Report) -> list[dict[str, Any]]:
    """Provenance of runs (commit, hardware, versions): each combination with its count."""
    found: Counter[str] = Counter()
    known: dict[str, dict[str, Any]] = {}
    for folder in report.cells["folder"]:
        if not folder or not (origin := Run(Path(folder)).origin()):
            continue
        shown = {key: origin.get(key) for key in ("commit", "hardware", "python", "packages")}
        found[repr(shown)] += 1
        known[repr(shown)] = shown
    return [{**known[key], "runs": count} for key, count in found.most_common()]
