"""What is published says what the runs say: results/, its README, and the project's README."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from harness.config.matrix import expand
from harness.config.schema import Grid
from harness.report.blocks import fill
from harness.report.write import build_report
from harness.store.store import ResultStore
from harness.store.tables import TABLES, grids

ROOT = Path(__file__).parents[2]
#: results folders; others (runs, artifacts, bench) are what was run here without naming a folder
FOLDERS = sorted(path for path in (ROOT / "results").iterdir() if (path / "tables").is_dir())


def reports(folder):
    store = ResultStore(folder).existing()
    return [build_report(store, grid) for grid in grids(store)]


@pytest.fixture(scope="module")
def published():
    return {folder: reports(folder) for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_published_tables_are_those_of_their_runs(folder, published):
    assert published[folder]
    for report in published[folder]:
        tables = folder / "tables" / report.grid
        mend = (
            f"run `python -m harness report {folder.relative_to(ROOT)}` and commit what it writes"
        )
        for table in TABLES:
            for extension in ("txt", "md", "tex"):
                written = (tables / f"{table}.{extension}").read_text()
                assert written == report.text(table, extension), mend
            written = pd.read_csv(tables / f"{table}.csv")
            now = pd.read_csv(io.StringIO(report.text(table, "csv")))
            pd.testing.assert_frame_equal(written, now, rtol=1e-9)  # another libm, another last bit
        assert not (tables / "conflicts.csv").exists()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_number_has_a_provenance_and_no_path_of_a_machine(folder, published):
    for report in published[folder]:
        for cell in report.cells.itertuples():
            assert cell.commit, f"{cell.run_id} has no commit"
            assert cell.hardware
        assert set(report.rows["run_id"]) <= set(report.cells["run_id"])
    for path in folder.rglob("*.json*"):
        assert "/home/" not in path.read_text(), path


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_published_grids_still_mean_the_published_runs(folder):
    """Planned today, they have the ids of then, so that finished runs stay finished."""
    for path in folder.glob("tables/*/matrix.json"):
        matrix = json.loads(path.read_text())
        planned = expand(Grid.model_validate(matrix["grid"])).specs
        assert [each.run_id for each in planned] == [cell["run_id"] for cell in matrix["cells"]]


def test_results_readme_lists_every_folder():
    text = (ROOT / "results" / "README.md").read_text()
    for folder in FOLDERS:
        assert f"| `{folder.name}/` |" in text


def test_project_readme_is_in_step_with_results(published):
    """Refilling its blocks from results/ would change nothing."""
    text = (ROOT / "README.md").read_text()
    every = [report for folder in published.values() for report in folder]
    filled, blocks = fill(text, every, "README.md")
    assert filled == text, "run `python -m harness leaderboard results/* --update README.md`"
    assert blocks >= 4
