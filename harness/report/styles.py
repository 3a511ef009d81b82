"""The pieces of a text table, written in three styles: plain, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from typing import Any

from tabulate import tabulate

#: extension -> tabulate's name of the style
STYLES = {"txt": "simple", "md": "github", "tex": "latex_booktabs"}


@dataclass(frozen=True)
class Table:
    """A titled table, one dictionary per row; title, headings and columns `labels` hold names.

    Names come from users and are escaped for Markdown, which other text in tables is not.
    """

    title: str
    rows: list[dict[str, Any]]
    labels: Container[str]

    def text(self, extension: str) -> str:
        """The table in one style; in LaTeX a float, no wider than a line, for booktabs."""
        title, rows = self.title, self.rows
        if extension == "md":
            title = _words(title)
            rows = [
                {_words(key): _words(row[key]) if key in self.labels else row[key] for key in row}
                for row in rows
            ]
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


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `named`: it holds names; `code`: and code of its own between backticks."""

    words: str
    named: bool = False
    code: bool = False

    def text(self, extension: str) -> str:
        """The paragraph in one style."""
        words = self.words
        if extension == "md" and self.named:
            words = _words(words, code=self.code)
        return (_escape(words) if extension == "tex" else words) + "\n"


def _words(text: Any, *, code: bool = False) -> Any:
    """Escape a label for Markdown; `code` keeps backticks."""
    return _markdown(text, code) if isinstance(text, str) else text


@cache
def _markdown(text: str, code: bool) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a bracket is one, unless it ends the words of a link
    text = re.sub(r"[\\*$~|]|\](?=[(\[])" + ("" if code else "|`"), r"\\\g<0>", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # within a word it is no emphasis


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
