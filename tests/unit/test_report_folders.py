"""Results folders of several machines and versions, and every state a folder can be in."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import ArtifactError
from harness.report.merge import read_grid
from harness.report.write import build_report
from harness.store.store import ResultStore
from tests.synthetic_results import quality, spec, write_results
from tests.unit.test_imports import run_without_torch

FIXTURES = Path(__file__).parents[1] / "fixtures" / "results"
PAIR = [spec("ctm", 0), spec("ctm", 1), spec("new", 0), spec("new", 1)]


def report(*stores):
    return build_report(stores, "synthetic")


def shifted(spec, step, nfe, metric):
    """What another machine measures: almost the same."""
    return quality(spec, step, nfe, metric) * (1.001 if spec.precond.name == "ctm" else 1)


def test_folders_of_two_people_are_the_folder_of_one(tmp_path):
    whole = report(write_results(tmp_path / "whole", PAIR))
    a = write_results(tmp_path / "a", [spec("ctm", 0), spec("ctm", 1), spec("new", 0)])
    b = write_results(tmp_path / "b", [spec("ctm", 0), spec("new", 1)])
    for together in (report(a, b), report(b, a)):
        for table in ("leaderboard", "speed", "area"):
            one, other = (
                getattr(r, table).sort_values(["nfe", "precond"]) for r in (whole, together)
            )
            pd.testing.assert_frame_equal(
                one.reset_index(drop=True), other.reset_index(drop=True), check_dtype=False
            )
        assert together.conflicts.empty
        assert not together.notes
    alone = report(b)
    assert "one seed" not in " ".join(alone.notes)
    assert alone.leaderboard["coverage"].unique().tolist() == ["1 of 1"]


def test_asked_twice_it_prints_what_it_wrote_until_something_changes(tmp_path):
    store = write_results(tmp_path, PAIR)
    without_pandas = (
        "import sys, harness.cli; code = harness.cli.main(['report', *sys.argv[1:]]);"
        "print('pandas' in sys.modules, file=sys.stderr); sys.exit(code)"
    )

    def ask(*words):
        command = [sys.executable, "-c", without_pandas, str(store.root), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr.split()[-1] == "True"

    first, computed = ask()
    assert computed
    assert ask() == (first, False)
    assert ask("--format", "latex", "--table", "coverage")[1] is False
    assert ask("--table", "speed")[1]  # its notes are the report's, not the table's
    made_from = store.root / "tables" / "synthetic" / "sources.json"
    made_from.write_text("{")
    assert ask() == (first, True)
    rows = store.run_at(PAIR[0].run_id).path / "eval.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    second, computed = ask()
    assert computed
    assert second != first
    assert ask() == (second, False)


def test_rows_that_only_one_folder_has_are_added(tmp_path):
    a = write_results(tmp_path / "a", PAIR, metrics=("frechet",))
    b = write_results(tmp_path / "b", PAIR, metrics=("energy",))
    together = report(a, b)
    assert set(together.leaderboard["metric"]) == {"frechet", "energy"}
    assert (together.leaderboard["seeds"] == 2).all()
    b = write_results(tmp_path / "b", PAIR, metrics=("energy",), hardware="1 x GPU")
    mixed = report(a, b)
    assert mixed.speed["speedup"].notna().all()
    assert mixed.speed["speedup_seconds"].isna().all()  # two clocks are no clock


def test_a_conflict_is_named_and_the_first_folder_counts_for_the_whole_run(tmp_path):
    a = write_results(tmp_path / "a", PAIR)
    b = write_results(tmp_path / "b", PAIR, value=shifted, metrics=("frechet", "energy"))
    together = report(a, b)
    ctm = [cell.run_id for cell in PAIR[:2]]
    assert set(together.conflicts["run_id"]) == set(ctm)
    assert len(together.conflicts) == 2 * 4 * 2  # every shared measure of both runs
    first = together.conflicts.iloc[0]
    assert first["value"] != first["other_value"]
    assert str(a.root) in first["folder"]
    assert str(b.root) in first["other_folder"]
    (note,) = [note for note in together.notes if ctm[0] in note]
    for part in ("frechet (raw, n=50) at step 100, NFE 1", str(first["value"]), "7 more"):
        assert part in note
    # no curve is stitched: ctm has no energy, though the other folder measured one
    energy = together.leaderboard.query("metric == 'energy'").set_index("precond")
    assert (energy.loc["ctm", "seeds"] == 0).all()
    assert (energy.loc["new", "seeds"] == 2).all()
    swapped = report(b, a).rows.query("precond == 'ctm' and metric == 'frechet'")
    assert (
        swapped["value"].tolist()
        == report(b).rows.query("precond == 'ctm' and metric == 'frechet'")["value"].tolist()
    )


def test_diverged_here_and_done_there_is_a_conflict(tmp_path):
    a = write_results(tmp_path / "a", PAIR, state="diverged", reason="loss at step 3", rows=False)
    b = write_results(tmp_path / "b", PAIR)
    together = report(a, b)
    assert set(together.conflicts["measure"]) == {"state"}
    assert (together.cells["state"] == "diverged").all()


def test_one_name_for_two_things_is_told_apart(tmp_path):
    a = write_results(tmp_path / "a", PAIR)
    b = write_results(tmp_path / "b", [spec("ctm", 0), spec("new", 0, revision=2)])
    names = set(report(a, b).cells["precond"])
    assert "ctm" in names
    assert len(names) == 3
    assert all(name == "ctm" or name.startswith("new #") for name in names)
    c = write_results(tmp_path / "c", [spec("ctm", 0, digest="other weights")])
    assert len(set(report(a, c).cells["teacher"])) == 2
    # the path of a weights file is no part of what a teacher is
    assert set(report(a).cells["teacher"]) == {"gmm"}


def test_two_protocols_or_settings_never_share_a_table(tmp_path):
    a = write_results(tmp_path / "a", PAIR)
    slow = [spec("ctm", 0, train={"lr": 0.01}), spec("new", 0, train={"lr": 0.01})]
    together = report(a, write_results(tmp_path / "b", slow))
    assert set(together.leaderboard["setting"]) == {"train.lr=0.1", "train.lr=0.01"}
    assert together.text("leaderboard").count("Leaderboard:") == 2
    assert "(train.lr=0.01)" in together.text("leaderboard")
    other = write_results(tmp_path / "c", [spec("ctm", 5), spec("new", 5)], evaluation_seed=1)
    both = report(a, other)
    assert set(both.leaderboard["eval_seed"]) == {0, 1}
    assert both.text("leaderboard").count("evaluation seed 1") == 1
    assert set(both.leaderboard["setting"]) == {""}


@pytest.mark.parametrize("name", ["schema-1-first", "schema-1-last"])
def test_results_of_earlier_versions_are_read(name):
    found = build_report(ResultStore(FIXTURES / name), "tiny")
    assert (found.cells["state"] == "done").all()
    assert len(found.rows) == 4 * 2 * 2 * 2
    assert found.leaderboard["rank"].notna().all()
    assert set(found.speed["precond"]) == {"ctm", "analytic(levels=12, samples=64)"}
    assert not found.notes


def test_versions_merge(tmp_path):
    """What an earlier version ran and what this one did: one report, never one column."""
    old = [ResultStore(FIXTURES / name) for name in ("schema-1-first", "schema-1-last")]
    found = build_report(old, "tiny")
    assert len(found.cells) == 8
    problems = found.cells[["teacher", "objective", "dataset", "setting"]].drop_duplicates()
    assert len(problems) == 2  # the objective got parameters since: another identity, another run
    assert found.leaderboard["rank"].notna().all()


def test_a_newer_version_is_refused_with_a_reason(tmp_path):
    store = write_results(tmp_path, PAIR)
    path = tmp_path / "tables" / "synthetic" / "matrix.json"
    data = json.loads(path.read_text())
    assert data["schema"] == 3
    path.write_text(json.dumps(data | {"schema": 4}))
    with pytest.raises(ArtifactError, match="has schema 4, and this precondbench reads up to 3"):
        read_grid(store, "synthetic")
    del data["cells"][0]["train"]
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"matrix.json cannot be read by this version .*train"):
        read_grid(store, "synthetic")


def lines_of(store, cell):
    path = store.run_at(cell.run_id).path / "eval.jsonl"
    return path, path.read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("break_line", "told"),
    [
        (lambda line: '{"step": 1,\n', "line 3 is damaged"),
        (lambda line: json.dumps(json.loads(line) | {"guidance": 2}) + "\n", "'guidance'"),
        (lambda line: line.replace('"nfe"', '"steps"'), "'steps'"),
        (lambda line: json.dumps(json.loads(line) | {"value": "good"}) + "\n", "'good'"),
        (lambda line: "[1, 2]\n", "no object"),
    ],
)
def test_a_damaged_or_unknown_line_is_a_hole_with_a_name(tmp_path, harness, break_line, told):
    store = write_results(tmp_path, PAIR)
    path, lines = lines_of(store, PAIR[0])
    lines[2] = break_line(lines[2])
    path.write_text("".join(lines))
    code, out, _ = harness("report", tmp_path)
    assert code == 1
    assert "1 of 2 (1 unreadable)" in report(store).leaderboard["coverage"].tolist()
    assert told in out
    assert str(path) in out
    assert "new" in out  # the others are reported all the same


def test_a_torn_last_line_is_passed_over_and_told(tmp_path, harness):
    store = write_results(tmp_path, PAIR)
    path, lines = lines_of(store, PAIR[0])
    path.write_text("".join(lines)[:-20])
    code, out, _ = harness("report", tmp_path)
    assert code == 0
    assert "cut short by a crash" in out
    assert "1 of 4 cells lack numbers" in out
    found = report(store)
    assert found.cells.set_index("run_id").loc[PAIR[0].run_id, "have"] == 7
    assert found.leaderboard.query("precond == 'ctm'")["seeds"].tolist() == [2, 1]


NUMBERS = {"t": [9.0, 9.0, 1.0], "s": [1.0, 0.1, 0.1], "skip": [0.5, 0.2, 0.1]}
COEFFICIENTS = {**NUMBERS, "out": [0.5, 0.8, 0.9], "shift": [0.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    "damaged",
    [
        json.dumps(COEFFICIENTS)[:40],
        "[1, 2]",
        json.dumps(NUMBERS),
        json.dumps(COEFFICIENTS | {"out": [0.5, 0.8]}),
        json.dumps(COEFFICIENTS | {"skip": ["a", "b", "c"]}),
        json.dumps(COEFFICIENTS | {"curves": []}),
        json.dumps(COEFFICIENTS | {"curves": {"t": "x"}}),
    ],
    ids=["torn", "list", "lacking", "short", "text", "curves", "curve"],
)
def test_damaged_coefficients_cost_no_number_and_are_told(tmp_path, harness, damaged):
    store = write_results(tmp_path, PAIR)
    paths = [store.run_at(cell.run_id).path / "coefficients.json" for cell in PAIR]
    for path in paths:
        path.write_text(json.dumps(COEFFICIENTS))
    whole = report(store)
    assert set(whole.leaderboard.query("precond == 'new'")["same_as"]) == {"ctm"}
    paths[0].write_text(damaged)
    code, out, _ = harness("report", tmp_path)
    assert code == 0
    assert f"{paths[0]} is damaged" in out
    assert "delete the file" in out
    pd.testing.assert_frame_equal(report(store).leaderboard, whole.leaderboard)  # by the other seed
    paths[1].write_text(damaged)
    code, out, _ = harness("report", tmp_path)
    assert code == 0
    assert f"{paths[1]} is damaged" in out
    assert "ctm)" not in out  # nobody knows what new is equal to
    pd.testing.assert_frame_equal(report(store).rows, whole.rows)


def test_damaged_coefficients_are_not_drawn(tmp_path, harness):
    store = write_results(tmp_path, PAIR)
    for cell in PAIR:
        path = store.run_at(cell.run_id).path / "coefficients.json"
        path.write_text("{" if cell.precond.name == "ctm" else json.dumps(COEFFICIENTS))
    code, out, _ = harness("report", tmp_path, "--format", "html")
    assert code == 0, out
    page = (tmp_path / "tables" / "synthetic" / "report.html").read_text()
    assert "coefficients.json is damaged" in page
    assert "Coefficients: gmm" in page


def test_no_results_one_cell_and_all_diverged_are_reports(tmp_path, harness):
    code, _, err = harness("report", tmp_path / "none")
    assert (code, "no results folder" in err) == (2, True)
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    code, _, err = harness("report", tmp_path / "empty")
    assert (code, "no grid was run" in err) == (2, True)

    write_results(tmp_path / "asked", PAIR, state="queued", rows=False)
    code, out, _ = harness("report", tmp_path / "asked")
    assert code == 0
    for part in ("leaderboard is empty", "2 queued", "0 of 16", "4 of 4 cells lack numbers"):
        assert part in out

    write_results(tmp_path / "one", [spec("new", 3)])
    code, out, _ = harness("report", tmp_path / "one")
    assert code == 0
    for part in ("one seed", "baseline 'ctm' is not in the grid", "No training-speed table", "(1)"):
        assert part in out

    write_results(tmp_path / "lost", PAIR, state="diverged", reason="loss at step 3", rows=False)
    code, out, _ = harness("report", tmp_path / "lost")
    assert code == 0
    for part in ("4 of 4 cells diverged", "loss at step 3", "leaderboard is empty"):
        assert part in out

    inf = write_results(tmp_path / "inf", PAIR, value=lambda *_: math.nan)
    assert (report(inf).leaderboard["median"] == math.inf).all()
    assert (report(inf).leaderboard["rank"] == 1).all()
    code, out, _ = harness("report", tmp_path / "inf")
    assert code == 0
    assert "diverged" in out


def test_names_that_are_unknown_are_told_with_the_nearest(tmp_path, harness):
    """A metric of a plugin that is not installed is reported as any other; a wrong name is not."""
    write_results(tmp_path, PAIR, metrics=("mine-own",), report={"targets": {"mine-won": [1.0]}})
    code, out, _ = harness("report", tmp_path)
    assert (code, "mine-own, raw, n=50" in out) == (0, True)
    assert "'mine-won', of which there is no number (did you mean 'mine-own'?" in out
    for flags, told in (
        (["--target", "frechet=1"], "no metric 'frechet'"),
        (["--target", "mine-own"], "METRIC=VALUE"),
        (["--baseline", "nwe"], "did you mean 'new'"),
        (["--grid", "synthetical"], "did you mean 'synthetic'"),
    ):
        code, _, err = harness("report", tmp_path, *flags)
        assert (code, told in err) == (2, True), err


def test_further_targets_and_another_baseline(tmp_path, harness):
    write_results(tmp_path, PAIR, report={"targets": {"frechet": [0.1]}})
    code, out, _ = harness(
        *["report", tmp_path, "--table", "speed", "--format", "csv"],
        *["--target", "frechet=0.2", "--baseline", "new"],
    )
    assert code == 0
    table = pd.DataFrame(csv.DictReader(io.StringIO(out)))
    assert set(table["target"]) == {"baseline's last", "0.1", "0.2"}
    assert set(table.query("precond == 'new'")["speedup"]) == {"1"}
    assert not (tmp_path / "tables" / "synthetic" / "speed.csv").exists()  # not the grid's own


def test_report_writes_where_it_is_told(tmp_path, harness):
    a = write_results(tmp_path / "a", PAIR)
    b = write_results(tmp_path / "b", PAIR, value=shifted)
    harness("report", a.root)
    written = {path.name for path in (a.root / "tables" / "synthetic").iterdir()}
    names = ("leaderboard", "speed", "profile", "area", "coverage")
    assert written == {"matrix.json", "sources.json"} | {
        f"{name}.{extension}" for name in names for extension in ("csv", "md", "tex", "txt")
    }
    before = (a.root / "tables" / "synthetic" / "speed.csv").read_text()
    _, out, _ = harness("report", a.root, b.root)
    assert "conflict in ctm-" in out
    assert (a.root / "tables" / "synthetic" / "speed.csv").read_text() == before
    harness("report", a.root, b.root, "--out", tmp_path / "c")
    assert len(pd.read_csv(tmp_path / "c" / "synthetic" / "conflicts.csv")) == 2 * 4 * 2
    harness("report", a.root, "--out", tmp_path / "c")
    assert not (tmp_path / "c" / "synthetic" / "conflicts.csv").exists()
    _, out, err = harness("report", a.root, b.root, "--format", "csv", "--table", "speed")
    assert len(list(csv.DictReader(io.StringIO(out)))) == 4
    assert "conflict in ctm-" in err  # csv stays csv


def test_latex_is_a_float_with_escaped_names(tmp_path, harness):
    write_results(tmp_path, [spec("ctm"), spec("a_b", changed={"rate": "50%"})])
    _, out, _ = harness("report", tmp_path, "--format", "latex", "--table", "leaderboard")
    assert out.count(r"\begin{table}") == out.count(r"\end{table}") == 1
    assert out.count(r"\begin{tabular}") == 1
    assert r"a\_b(rate=50\%)" in out
    assert r"\caption{Leaderboard: gmm / ctm / teacher; frechet, raw, n=50, sampler exact;" in out


def test_a_report_over_200_cells_takes_seconds_and_no_torch(tmp_path):
    names = ["ctm", *(f"s{k}" for k in range(39))]
    store = write_results(
        tmp_path,
        [spec(name, seed) for name in names for seed in range(5)],
        budgets=tuple(100 * 2**k for k in range(10)),
        nfe=(1, 2, 3, 5, 10),
        metrics=("frechet", "alignment", "energy"),
    )
    started = time.process_time()
    found = build_report(store, "synthetic")
    assert time.process_time() - started < 8  # 1.3 on one slow core
    assert len(found.rows) == 200 * 150
    assert len(found.speed) == len(found.area) == 40 * 5 * 3
    assert len(found.profile) == 40 * 5 * 3 * (13 + 2)
    shutil.rmtree(tmp_path / "runs")
    done = run_without_torch("report", tmp_path)
    assert done.returncode == 2
    write_results(tmp_path, PAIR)
    done = run_without_torch("report", tmp_path, "--format", "md")
    assert done.returncode == 0, done.stderr
