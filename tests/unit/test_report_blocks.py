"""Published tables: blocks of a Markdown file, filled and kept in step."""

import pytest

from tests.synthetic_results import spec, write_results

CELLS = [spec("ctm"), spec("new")]
TEXT = """# Mine

<!-- precondbench:begin synthetic leaderboard frechet -->
old
<!-- precondbench:end -->

between, with trailing spaces  

<!-- precondbench:begin synthetic speed -->
<!-- precondbench:end -->

<!-- precondbench:begin elsewhere leaderboard -->
stays
<!-- precondbench:end -->

```
<!-- precondbench:begin synthetic speed -->
```
"""


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / "r", CELLS, metrics=("frechet", "energy")).root


def test_blocks_are_filled_in_place_and_filling_is_idempotent(tmp_path, results, harness):
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    code, out, _ = harness("leaderboard", results, "--update", path)
    assert (code, "2 blocks, changed" in out) == (0, True)
    text = path.read_text()
    board, speed, other, fenced = text.split("precondbench:begin ")[1:]
    assert "| new" in board
    assert "frechet, raw" in board
    assert "energy" not in board
    assert "old\n" not in board
    assert "frechet, raw" in speed
    assert "energy, raw" in speed
    assert "stays" in other
    assert "|" not in fenced
    assert "between, with trailing spaces  \n" in text
    code, out, _ = harness("leaderboard", results, "--update", path)
    assert "was up to date" in out
    assert path.read_text() == text


def test_line_endings_of_the_file_are_kept(tmp_path, results, harness):
    path = tmp_path / "README.md"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert harness("leaderboard", results, "--update", path)[0] == 0
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 30


BEGIN = "<!-- precondbench:begin synthetic leaderboard -->\n"
END = "<!-- precondbench:end -->\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# nothing\n", ["has no block for synthetic", BEGIN.strip(), END.strip()]),
        ("a\n" + BEGIN, ["line 2", "never ends"]),
        (BEGIN + END + END, ["line 3", "never began"]),
        (BEGIN + BEGIN + END, ["line 2", "before that of line 1 ends"]),
        (BEGIN.replace("begin", "start") + END, ["line 1", "'precondbench:start'"]),
        (BEGIN.replace("leaderboard", "leaderbord") + END, ["did you mean 'leaderboard'"]),
        (BEGIN.replace("synthetic leaderboard", "") + END, ["line 1", "names a grid, a table"]),
        (BEGIN.replace("board", "board freshet") + END, ["line 1", "did you mean 'frechet'"]),
    ],
)
def test_wrong_marks_are_named_and_nothing_is_written(tmp_path, results, harness, text, told):
    path = tmp_path / "README.md"
    path.write_text(text)
    code, _, err = harness("leaderboard", results, "--update", path)
    assert code == 2
    for part in (str(path), *told):
        assert part in err
    assert path.read_text() == text


def test_there_must_be_a_file(tmp_path, results, harness):
    code, _, err = harness("leaderboard", results, "--update", tmp_path / "none.md")
    assert (code, "there is no such file" in err) == (2, True)
