"""Show text from elsewhere on one line, with control characters escaped.

Parameters, names and reasons of failures stand in tables of every format and on terminals. A line's
end would split a row there, a direction mark turn it round, an escape sequence do worse.
"""

from __future__ import annotations


def visible(text: str) -> str:
    """The text with unprintable characters as Python escapes them: a newline becomes `\\n`."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def counted(n: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `3 processes`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{n:,} {noun if n == 1 else plural}"
