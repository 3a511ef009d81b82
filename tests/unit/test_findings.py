"""The verdict table of docs/findings.md says what the published tables say."""

import functools

import pandas as pd
import pytest

from tests.conftest import ROOT

#: problem of the table -> results folder and grid
STUDIES = {
    "ring": ("ring-long", "ring-long"),
    "ring off centre": ("off-centre-long", "off-centre-long"),
    "64 modes": ("modes-long", "modes-long"),
    "patches": ("patches", "patches"),
    "patches, 512 units": ("patches", "patches-wide"),
    "digits": ("digits-study", "digits-long"),
}
#: beginning of a question -> level of the speed-up, or the end
LEVELS = {
    "the start": "1/2",
    "images to 110 %": "within 10 % of baseline's best",
    "the end": None,
}
PRECONDS = {"`moment: {tangent: false}`": "moment(tangent=false)"}


def verdicts():
    """(question, preconditioning, problem) -> what the page says."""
    text = (ROOT / "docs/findings.md").read_text()
    lines = text[text.index("| question | problem |") :].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    question = ""
    for row in rows:
        question = row[0] or question
        for name, said in zip(head[2:], row[2:], strict=True):
            yield question, PRECONDS.get(name, name.strip("`")), row[1], said


def number(value, bound=""):
    return f"{bound}{value:.2f}".replace("0.", ".", 1) if value == value else "?"


@functools.cache
def profile(folder, grid):
    return pd.read_csv(ROOT / "results" / folder / "tables" / grid / "profile.csv")


def found(folder, grid, precond, level):
    """The same from profile.csv, alignment at the nodes of training, NFE 1, 2 and 5."""
    table = profile(folder, grid)
    table = table[(table["sampler"] == "exact@trained") & (table["metric"] == "alignment")]
    told = []
    for nfe in (1, 2, 5):
        at = table[table["nfe"] == nfe]
        mine = at[at["precond"] == precond]
        if level is None:
            ends = [float(each["end"].iloc[0]) for each in (mine, at[at["precond"] == "ctm"])]
            told.append(number(ends[0] / ends[1]))
            continue
        row = mine[mine["level"] == level]
        if row.empty:
            told.append("?")
        else:
            bound = row["bound"].fillna("").iloc[0]
            told.append(number(float(row["speedup"].iloc[0]), bound.replace("?", "")))
    return " / ".join(told)


@pytest.mark.parametrize(("question", "precond", "problem", "said"), list(verdicts()), ids=str)
def test_the_verdict_is_that_of_the_tables(question, precond, problem, said):
    if not said:
        return
    level = next(level for begins, level in LEVELS.items() if question.startswith(begins))
    assert said == found(*STUDIES[problem], precond, level)


def test_the_table_was_read():
    assert len(list(verdicts())) == 9 * len(STUDIES)
