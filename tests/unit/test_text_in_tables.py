"""Whatever parameters and reasons say, tables of every format keep their rows and columns."""

import csv
import html
import io
import json
import re

import pytest

from harness.report.blocks import fill
from harness.report.write import build_report
from harness.store.tables import TABLES
from harness.visible import visible
from tests.synthetic_results import spec, write_results

TEXTS = {
    "pipe": "a|b",
    "escaped pipe": r"a\|b",
    "newline": "l1\nl2",
    "windows newline": "l1\r\nl2",
    "other line ends": "a\x0bb\x0cc\x85d\u2028e\u2029f\x1cg",
    "tab and nul": "a\tb\0c",
    "script": "</script><script>alert(1)</script>",
    "comment": "<!-- precondbench:end -->",
    "mark on a line": "x\n<!-- precondbench:end -->\ny",
    "entity": "a &lt; b & c",
    "formula": "=1+1",
    "formulas": "+1 -1 @SUM(A1) =cmd|'/C calc'!A0",
    "rtl": "abc\u202efed\u2066x\u2069",
    "terminal": "\x1b[31mred\x1b]0;title\x07",
    "emphasis": "*a* _b_ __c__ ~~d~~ `e`",
    "fence": "```\ncode",
    "link": "[a](http://b) ![c](d)",
    "mathematics": "$x$ % & # \\frac{a}{b} ^2",
    "backslash": r"C:\new\table",
    "quotes": "a\"b'c,d;e",
    "cat": "猫🐈",
    "row": "| --- | --- |",
    "surrogate": "a\ud800b",
    "long": "w" * 500,
}


def report(folder, text):
    """A report whose label, reason and skip are the text."""
    mine = spec("mine", changed={"tag": text})
    store = write_results(folder, [spec("ctm"), mine], budgets=(100,))
    status = {"state": "failed", "reason": text}
    (store.run_at(mine.run_id).path / "status.json").write_text(json.dumps(status))
    path = folder / "tables" / "synthetic" / "matrix.json"
    matrix = json.loads(path.read_text()) | {"skips": [{"cell": text, "reason": text}]}
    path.write_text(json.dumps(matrix))
    return build_report(store, "synthetic")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same of a harmless text."""
    return report(tmp_path_factory.mktemp("plain"), "x")


@pytest.fixture(scope="module", params=TEXTS.values(), ids=TEXTS.keys())
def case(request, tmp_path_factory):
    """A text, and the report that is full of it."""
    return request.param, report(tmp_path_factory.mktemp("text"), request.param)


def md_rows(table):
    """Cells of the lines of a Markdown table, as a reader sees them."""
    for line in table.split("\n"):
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
            plain = (html.unescape(re.sub(r"\\([^\w\s]|_)", r"\1", cell)) for cell in cells)
            yield [cell.strip() for cell in plain]


def test_markdown_keeps_rows_and_columns_and_the_text(case, plain):
    text, found = case
    label = f"mine(tag={visible(text)})"
    for table in TABLES:
        written = found.text(table, "md")
        assert written.count("\n") == plain.text(table, "md").count("\n")
        rows = list(md_rows(written))
        assert [len(row) for row in rows] == [len(row) for row in md_rows(plain.text(table, "md"))]
        assert label in [cell for row in rows for cell in row]
        assert not re.search(r"<[a-zA-Z/!]", written)  # `<2` is a speed-up
    cells = {cell for row in md_rows(found.text("coverage", "md")) for cell in row}
    assert visible(text).strip() in cells


def test_csv_holds_the_text_and_no_formula(case):
    text, found = case
    for table in TABLES:
        written = found.text(table, "csv")
        rows = list(csv.reader(io.StringIO(written)))
        assert len({len(row) for row in rows}) == 1
        cells = [cell for row in rows for cell in row]
        assert not [cell for cell in cells if re.match(r"[=+@]|-\D", cell)]
        if table == "coverage":
            assert visible(text) in {cell.removeprefix("'") for cell in cells}


def columns(table):
    """How many cells end in each line of a LaTeX table."""
    return [len(re.findall(r"(?<!\\)&", line)) for line in table.split("\n")]


def test_text_and_latex_have_a_line_a_row(case, plain):
    _, found = case
    for extension in ("txt", "tex"):
        for table in TABLES:
            expected = plain.text(table, extension)
            written = found.text(table, extension)
            assert written.isascii() or all(c == "\n" or c.isprintable() for c in written)
            assert written.count("\n") == expected.count("\n")
            if extension == "tex":
                assert columns(written) == columns(expected)


def test_blocks_of_a_readme_hold(case):
    _, found = case
    frame = "a\n<!-- precondbench:begin synthetic coverage -->\n<!-- precondbench:end -->\nb\n"
    once, blocks = fill(frame, [found], "README.md")
    assert blocks == 1
    assert once.startswith("a\n<!-- precondbench:begin")
    assert once.endswith("\n<!-- precondbench:end -->\nb\n")
    assert fill(once, [found], "README.md") == (once, 1)


def test_the_page_shows_the_text(case, tmp_path):
    text, found = case
    from harness.report.page.build import render_page

    page = render_page(found, tmp_path)
    page.encode()
    assert len(re.findall(r"<script\b", page)) == 2
    assert not [c for c in page if not c.isprintable() and c not in "\n\N{NO-BREAK SPACE}"]
    shown = html.unescape(page.replace("<wbr>", ""))
    assert f"mine(tag={visible(text)})" in shown
