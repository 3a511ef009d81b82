"""What the smaller verbs say of published results, and what they refuse instead of ignoring it."""

import re

import pytest

from tests.conftest import ROOT

PUBLISHED = ROOT / "results" / "quickstart"


@pytest.mark.parametrize("name", ["", ".", "../tables", "no-such-run"])
def test_show_finds_no_run_by_a_path(harness, name):
    code, _, err = harness("show", name, "--results", PUBLISHED)
    assert (code, f"no run begins with {name!r}" in err) == (2, True)


def test_show_is_for_people(harness):
    (run, *_) = sorted(path.name for path in (PUBLISHED / "runs").iterdir())
    code, out, _ = harness("show", run, "--results", PUBLISHED)
    assert code == 0
    assert re.search(r"updated: '?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", out)
    assert "phase:" not in out
    assert "reference n" in out


@pytest.mark.parametrize("verb", ["leaderboard", "report", "status", "publish"])
def test_a_folder_of_results_folders_says_which_there_are(harness, tmp_path, verb):
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    words = (verb, tmp_path, *(("--out", tmp_path / "out") if verb == "publish" else ()))
    code, _, err = harness(*words)
    assert (code, f"give {tmp_path / 'mine'}" in err) == (2, True)
    (tmp_path / "runs").mkdir()
    if verb != "status":
        assert f"results are in {tmp_path / 'mine'}" in harness(*words)[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "--equivalence", "--coefficients"], "not allowed with"),
        (["report", PUBLISHED, "--format", "html", "--table", "speed"], "leave --table out"),
    ],
)
def test_options_that_nothing_would_read_are_refused(harness, arguments, words):
    code, _, err = harness(*arguments)
    assert (code, words in err) == (2, True)


def test_every_plugin_says_what_it_is(harness):
    code, out, _ = harness("list")
    assert code == 0
    assert "See the module" not in out
    assert "Undefined" not in out


def test_list_takes_either_number_and_names_the_kinds(harness):
    assert harness("list", "precond") == harness("list", "preconds")
    code, _, err = harness("list", "networks")
    assert code == 2
    assert "no plugin kind 'networks'" in err


def test_a_grid_without_ctm_compares_with_its_first_preconditioning_and_says_so(harness, grid):
    words = ["plan", "--matrix", grid, "--set", "axes.precond=[edm, analytic]"]
    code, _, err = harness(*words)
    assert code == 0
    assert "note: report.baseline: 'edm', the first on axes.precond" in err
    code, _, err = harness(*words, "--set", "report.baseline=arc")
    assert (code, "report.baseline: 'arc' is not on axes.precond" in err) == (2, True)


def test_a_quick_run_does_all_of_a_grid_in_a_folder_of_its_own(harness, grid, tmp_path):
    harness("run", "--matrix", grid, "--set", "budgets=[1]", "--set", "axes.precond=[ctm]")
    before = sorted((tmp_path / "results").rglob("*"))
    large = ["--set", "axes.precond=[ctm, analytic]", "--set", "axes.seed=[0, 1]"]
    large += ["--set", "budgets=[1000, 9000]", "--set", "evaluate.samples=5000"]
    code, out, err = harness("run", "--matrix", grid, *large, "--quick")
    assert code == 0, err
    assert "tables: " + str(tmp_path / "results-quick" / "tables" / "tiny-quick") in out
    assert "n=128" in out
    assert "analytic(levels=24, samples=256)" in out
    assert sorted((tmp_path / "results").rglob("*")) == before
    code, out, _ = harness("plan", "--matrix", grid, *large, "--quick")
    assert "tiny-quick: 2 cells" in out
    assert "0 missing; 20 steps" in out
