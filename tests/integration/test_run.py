"""The main job on a grid of seconds: it runs, repeats for nothing, extends, and survives kills."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import command


def runs(grid):
    return sorted((grid.parent / "results" / "runs").iterdir())


def rows(run):
    return [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]


def values(run):
    """Everything an evaluation says except the clock."""
    return {
        (r["step"], r["nfe"], r["metric"], r["extractor"], r["n"]): r["value"] for r in rows(run)
    }


def finish(process, code=0, timeout=240):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, out + err
    return out, err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny grid, run once for the whole module; tests that change it copy it."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("finished")
    path = folder / "tiny.yaml"
    data = yaml.safe_load(TINY)
    data["axes"]["precond"] = [
        "ctm",
        "bcm",
        {"name": "analytic", "params": {"levels": 12, "samples": 64}},
    ]
    data["results"] = str(folder / "results")
    path.write_text(yaml.safe_dump(data))
    out, _ = finish(command("run", "--matrix", path))
    return path, out


def test_run_writes_rows_tables_and_provenance(finished):
    grid, out = finished
    assert "Leaderboard" in out
    assert "Training speed" in out
    assert "bcm (= ctm)" in out
    assert len(runs(grid)) == 3
    for run in runs(grid):
        assert len(rows(run)) == 2 * 2 * 2
        assert {"step", "images", "nfe", "metric", "extractor", "n", "value"} <= set(rows(run)[0])
        assert json.loads((run / "status.json").read_text())["state"] == "done"
        provenance = (run / "provenance.json").read_text()
        assert str(Path.home()) not in provenance
        assert os.uname().nodename not in provenance
    tables = grid.parent / "results" / "tables" / "tiny"
    speed = pd.read_csv(tables / "speed.csv")
    assert {"precond", "nfe", "metric", "speedup", "censored", "calibration_seconds"} <= set(speed)
    assert (speed[speed["precond"].str.startswith("analytic")]["calibration_seconds"] > 0).all()
    assert (speed[speed["precond"] == "ctm"]["speedup"] == 1).all()
    board = pd.read_csv(tables / "leaderboard.csv")
    assert set(board["precond"]) == {"ctm", "bcm", "analytic(levels=12, samples=64)"}
    for extension in ("md", "tex", "txt"):
        assert "analytic" in (tables / f"leaderboard.{extension}").read_text()


def test_paired_runs_of_one_function_are_identical(finished):
    grid, _ = finished
    ctm, bcm = (next(r for r in runs(grid) if r.name.startswith(n)) for n in ("ctm", "bcm"))
    for key, value in values(ctm).items():
        assert values(bcm)[key] == pytest.approx(value, rel=1e-3)


def test_second_run_does_nothing_quickly_and_without_torch(finished):
    grid, _ = finished
    before = {p: p.stat().st_mtime_ns for r in runs(grid) for p in r.rglob("*") if p.is_file()}
    started = time.perf_counter()
    process = command("run", "--matrix", grid)
    out, _ = finish(process)
    assert time.perf_counter() - started < 5  # seconds; a cell takes longer
    assert "nothing to do" in out
    after = {p: p.stat().st_mtime_ns for r in runs(grid) for p in r.rglob("*") if p.is_file()}
    assert before == after
    out, _ = finish(command("run", "--matrix", grid, "--set", "axes.precond=[ctm, bcm]"))
    assert "nothing to do" in out
    assert all(name in out for name in ("analytic", "bcm"))  # tables lose nothing by --set
    out, _ = finish(command("run", "--matrix", grid))
    assert "analytic" in out
    from tests.unit.test_imports import run_without_torch

    results = grid.parent / "results"
    for verb in (
        ["run", "--matrix", grid],
        ["status", results],
        ["report", results],
        ["report", results, "--format", "latex"],
        ["leaderboard", results, "--format", "md"],
        ["show", runs(grid)[0].name[:6], "--results", results],
    ):
        done = run_without_torch(*verb)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_adding_questions_computes_only_the_answers(finished, tmp_path):
    """An NFE, a metric and a budget more: old rows stay, weights are reused, one cell trains on."""
    import shutil

    grid, _ = finished
    shutil.copytree(grid.parent / "results", tmp_path / "results")
    mine = ["--matrix", grid, "--set", f"results={tmp_path / 'results'}"]
    run = next(iter(sorted((tmp_path / "results" / "runs").glob("ctm-*"))))
    before = (run / "eval.jsonl").read_text()
    trained = (run / "train.jsonl").read_text()
    more = [
        "--set",
        "evaluate.nfe=[1, 2, 4]",
        "--set",
        "evaluate.metrics=[alignment, frechet, energy]",
    ]
    finish(command("run", *mine, *more, "--only", "precond=ctm"))
    after = (run / "eval.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 2 * 3 * 3
    assert (run / "train.jsonl").read_text() == trained
    finish(command("run", *mine, "--set", "budgets=[10, 25, 40]", "--only", "precond=ctm"))
    assert max(r["step"] for r in rows(run)) == 40
    assert (run / "train.jsonl").read_text().startswith(trained)
    more = ["eval", run.name, "--results", tmp_path / "results", "--nfe", "3"]
    out, _ = finish(command(*more))
    assert {(r["step"], r["nfe"]) for r in rows(run)} >= {(10, 3), (25, 3), (40, 3)}
    assert "6 new numbers of 1 run" in out
    out, _ = finish(command(*more))
    assert out == "0 new numbers of 1 run\n"


@pytest.mark.slow
def test_kill_dash_nine_then_resume_gives_the_same_bits(grid, finished):
    """Runner killed in the middle of training: workers die with it, rows and weights end equal."""
    arguments = [
        "run",
        "--matrix",
        grid,
        "--set",
        "axes.precond=[ctm]",
        "--set",
        "budgets=[10, 400]",
    ]
    more = ["--set", "train.checkpoint_every=20"]
    whole = grid.parent / "whole"
    finish(command(*arguments, *more, "--set", f"results={whole}"))
    process = command(*arguments, *more)
    kills = 0
    while kills < 2:
        deadline = time.time() + 120
        wanted = 1 + kills
        while time.time() < deadline:
            saved = list((grid.parent / "results" / "runs").glob("*/checkpoints/step-*"))
            if any(int(p.name[5:]) >= 20 * wanted + 20 for p in saved):
                break
            time.sleep(0.02)
        worker = json.loads((runs(grid)[0] / "status.json").read_text())["pid"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        gone = time.time() + 10
        while time.time() < gone and _alive(worker):
            time.sleep(0.05)
        assert not _alive(worker), "the worker outlived its runner"
        process = command(*arguments, *more)
    finish(process)
    (mine,), (other,) = runs(grid), sorted((whole / "runs").iterdir())
    assert values(mine) == values(other)
    last = "ema/step-00000400.safetensors"
    assert (mine / last).read_bytes() == (other / last).read_bytes()
    assert "resumed from" in (mine / "worker.log").read_text()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_train_the_same_weights(grid, tmp_path):
    from safetensors.torch import load_file

    settings = ["run", "--matrix", grid, "--set", "axes.precond=[ctm]", "--set", "launch.slots=1"]
    settings += ["--set", "evaluate.samples=1500"]  # two blocks: each has its share in all of it
    ends = {}
    for processes in (1, 2):
        results = tmp_path / f"p{processes}"
        finish(
            command(
                *settings,
                "--set",
                f"results={results}",
                "--set",
                f"launch.processes={processes}",
            )
        )
        (run,) = (results / "runs").iterdir()
        assert json.loads((run / "provenance.json").read_text())["processes"] == processes
        ends[processes] = load_file(run / "ema" / "step-00000025.safetensors"), values(run)
    for key, value in ends[1][0].items():
        assert float((value - ends[2][0][key]).abs().max()) < 1e-6
    for key, value in ends[1][1].items():
        assert ends[2][1][key] == pytest.approx(value, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_divergence_failure_and_interrupt_are_told_apart(grid, finished):
    """A cell that diverges does not take its neighbour along; its step and reason are kept."""
    process = command(
        "run", "--matrix", grid, "--set", "train.lr=1e30", "--set", "axes.precond=[ctm]"
    )
    _, err = finish(process, code=1)
    assert "diverged" in err
    assert "is not finite at step" in err
    (run,) = runs(grid)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "diverged"
    again = command(
        "run", "--matrix", grid, "--set", "train.lr=1e30", "--set", "axes.precond=[ctm]"
    )
    _, err = finish(again, code=1)  # deterministic: not tried again, still reported
    assert "diverged" in err

    long = ["--set", "budgets=[10, 100000]", "--set", "axes.precond=[ctm]"]
    process = command("run", "--matrix", grid, *long)
    mine = None
    for _ in range(600):
        mine = next((r for r in runs(grid) if r != run), None)
        if mine and (mine / "eval.jsonl").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=130)
    assert "continues from here" in err
    status = json.loads((mine / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert f"step-{status['step']:08d}" in {p.name for p in (mine / "checkpoints").iterdir()}
    assert {r["step"] for r in rows(mine)} <= {10}


@pytest.mark.slow
def test_damage_is_named_and_nothing_finished_is_lost(finished, tmp_path):
    import shutil

    grid, _ = finished
    results = tmp_path / "results"
    shutil.copytree(grid.parent / "results", results)
    mine = ["run", "--matrix", grid, "--set", f"results={results}"]
    run = next(iter(sorted((results / "runs").glob("analytic-*"))))
    kept = (run / "eval.jsonl").read_text()
    (artifact,) = results.glob("artifacts/calibration/*.safetensors")
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-3] + b"xyz")
    _, err = finish(
        command(*mine, "--set", "evaluate.nfe=[1, 2, 3]", "--only", "precond=analytic"), 1
    )
    assert "does not match its digest" in err
    assert str(artifact) in err
    assert (run / "eval.jsonl").read_text() == kept
    artifact.write_bytes(whole)
    # a damaged checkpoint: the one before is used
    newest = sorted((run / "checkpoints").iterdir())[-1]
    (newest / "optimizer.safetensors").write_bytes(b"\0" * 50)
    finish(command(*mine, "--set", "budgets=[10, 25, 30]", "--only", "precond=analytic"))
    log = (run / "worker.log").read_text()
    assert "does not match its digest; using an earlier one" in log
    assert max(r["step"] for r in rows(run)) == 30


def test_trackers_show_what_the_files_say(grid):
    """TensorBoard's event file and eval.jsonl agree; results do not depend on it."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    finish(
        command(
            *["run", "--matrix", grid, "--only", "precond=ctm"],
            *["--set", "launch.track=[tensorboard]"],
        )
    )
    (run,) = runs(grid)
    folder = run / "trackers" / "precondbench"
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    shown = {
        (tag, event.step): event.value
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }
    for row in rows(run):
        assert shown[f"{row['metric']}/nfe {row['nfe']}", row["step"]] == pytest.approx(
            row["value"], rel=1e-6
        )
    logged = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert shown["ctm", logged[-1]["step"]] == pytest.approx(logged[-1]["ctm"], rel=1e-6)


def test_plugin_file_runs_as_a_preconditioning(grid, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from harness.api import Coeffs, Preconditioning, edm_inner, register_precond\n"
        "@register_precond('mine')\n"
        "class Mine(Preconditioning):\n"
        "    '''Euler with EDM inside, written by hand.'''\n"
        "    def coeffs(self, t, s):\n"
        "        c_skip, c_out = edm_inner(t, self.sigma_data)\n"
        "        return Coeffs(s / t + (1 - s / t) * c_skip, (1 - s / t) * c_out)\n"
    )
    process = command(
        *["run", "--matrix", grid, "--plugin", plugin],
        *["--set", "axes.precond=[ctm, mine]", "--set", "budgets=[5]"],
    )
    out, _ = finish(process)
    assert "mine (= ctm)" in out
    written = plugin.read_text()
    plugin.write_text(written + "# edited since")
    published = ["publish", tmp_path / "results", "--out", tmp_path / "out", "--with-plugins"]
    out, _ = finish(command(*published))
    (copied,) = (tmp_path / "out" / "plugins").iterdir()
    assert copied.read_text() == written
    assert f"--plugin {copied}" in out
    for kept in (tmp_path / "results" / "artifacts" / "plugins").iterdir():
        kept.unlink()
    process = command(*published)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "has not kept the file of precond mine of run mine-gmm-ctm-s0-" in err
    plugin.write_text(written)
    out, _ = finish(command("check", "mine", "--plugin", plugin, "--results", tmp_path / "r"))
    assert "FAILED" not in out


def test_check_calibrate_gap_and_list(tmp_path, harness):
    where = ["--results", tmp_path / "r"]
    code, out, _ = harness("check", "--equivalence", *where)
    assert (code, "bcm = ctm" in out) == (0, True)
    code, out, _ = harness("calibrate", "analytic: {levels: 10, samples: 64}", "--curve", *where)
    assert (code, "704 of the teacher" in out) == (0, True)
    code, _, err = harness("calibrate", "ctm", *where)
    assert (code, "nothing to calibrate" in err) == (2, True)
    code, out, _ = harness("gap", "ctm", "analytic", "--levels", "4", "--samples", "64", *where)
    assert (code, "gap to t" in out) == (0, True)
    (folder,) = (tmp_path / "r" / "tables" / "gap").glob("gmm-*")
    assert (folder / "gap-to-t.png").stat().st_size > 10_000
    assert len(pd.read_csv(folder / "gap.csv")) == 2 * 6
    code, out, _ = harness("list", "preconds")
    assert all(name in out for name in ("edm", "ctm", "bcm", "analytic", "backward"))
