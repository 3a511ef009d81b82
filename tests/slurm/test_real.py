"""The launcher against a real Slurm: arrays, failures, preemption, time limits, several nodes.

    python -m pytest -m slurm tests/slurm -s      # root on Debian or Ubuntu; about ten minutes

Slurm is installed if need be (cluster.py) and stopped at the end. What happened is printed as a
table. Jobs that were put back would wait two minutes, Slurm's own delay; here they are released.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tabulate import tabulate

from harness.config.matrix import wanted
from harness.store.store import ResultStore
from harness.store.submissions import newest_jobs
from tests.conftest import TINY, command
from tests.slurm.cluster import cluster, install

pytestmark = pytest.mark.slurm

PLUGINS = '''
import time

from harness.api import register_precond
from preconds.ctm import CTM


@register_precond("slow")
class Slow(CTM):
    """CTM that takes its time, so that there is something to interrupt."""

    def coeffs(self, t, s):
        time.sleep(0.02)
        return super().coeffs(t, s)


@register_precond("broken")
class Broken(CTM):
    """Fails in the worker."""

    def coeffs(self, t, s):
        raise RuntimeError("no coefficients today")
'''
TABLE: list[dict] = []


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a Slurm of one's own needs root on Debian or Ubuntu")
    install()
    with cluster(tmp_path_factory.mktemp("slurm")) as conf:
        os.environ["SLURM_CONF"] = str(conf)
        yield conf
    del os.environ["SLURM_CONF"]
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True).stdout.strip()
    print(f"\n\n{version}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print(tabulate(TABLE, headers="keys", tablefmt="github"))


class Matrix:
    """A grid in a folder of its own, run by the command line, and what came of it."""

    def __init__(self, folder, **changes):
        self.folder = folder
        (folder / "plugins.py").write_text(PLUGINS)
        data = yaml.safe_load(TINY) | {"results": str(folder / "results")}
        data["train"]["checkpoint_every"] = 1000  # what is saved is saved for the occasion
        data["evaluate"] |= {"metrics": ["alignment"], "nfe": [1]}
        data["launch"] = {
            **{"device": "cpu", "launcher": "slurm", "grace": 0.25},
            "slurm": {"minutes": 30, "mem_gb": 1} | changes.pop("slurm", {}),
        } | changes.pop("launch", {})
        data["report"] = {"baseline": changes["axes"]["precond"][0]}
        data |= changes
        data["axes"] = {"teacher": ["gmm"], "seed": [0]} | data["axes"]
        self.grid = folder / "grid.yaml"
        self.grid.write_text(yaml.safe_dump(data))
        self.store = ResultStore(folder / "results")
        self.started = time.monotonic()

    def run(self, *flags):
        return command(
            *["run", "--matrix", self.grid, "--plugin", self.folder / "plugins.py", *flags],
            start_new_session=True,
        )

    def runs(self):
        return self.store.runs()

    def job(self, run):
        return newest_jobs(self.store.root)[run.run_id]

    def values(self):
        return {
            (run.run_id, measure): row.value
            for run in self.runs()
            for measure, row in run.rows().items()
        }

    def tell(self, scenario, warned=None):
        """One line of the transcript, from the files alone; `warned` is when the machine was."""
        until(lambda: not {*queue().values()} & {"RUNNING", "COMPLETING", "PENDING"})
        runs = self.runs()
        jobs = [folder.events(job) for folder, job in newest_jobs(self.store.root).values()]
        events = [event for job in jobs for event in job]
        back = [event["time"] for event in events if event["event"] == "requeued"]
        states = [run.status()["state"] for run in runs]
        logs = [(run.path / "worker.log").read_text() for run in runs]
        lines = [(run.path / "eval.jsonl").read_text() for run in runs if run.rows()]
        done = [run for run, state in zip(runs, states, strict=True) if state == "done"]
        TABLE.append(
            {
                "scenario": scenario,
                "cells": len(runs),
                "ended as": ", ".join(f"{n} {state}" for state, n in Counter(states).items()),
                "starts": sum(event["event"] == "started" for event in events),
                "requeues": len(back),
                "resumes": sum(log.count("resumed from") for log in logs),
                "rows lost": sum(len(run.missing(wanted(run.request, run.spec))) for run in done),
                "rows twice": sum(text.count("\n") for text in lines)
                - sum(len(run.rows()) for run in runs),
                "warning to queue, s": f"{back[0] - warned:.1f}" if warned else "",
                "seconds": round(time.monotonic() - self.started),
            }
        )


def queue(*jobs):
    rows = subprocess.run(
        [
            "squeue",
            "-h",
            "-r",
            "-t",
            "all",
            "-o",
            "%i %T",
            *(["-j", ",".join(jobs)] if jobs else []),
        ],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return dict(row.split() for row in rows)


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.3)
    return answer


def training(run, past=10):
    return run.status().get("phase") == "training" and run.status().get("step", 0) > past


def finish(process, code=0, seconds=400):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()) from None
    assert process.returncode == code, out + err
    return out, err


def release(job):
    """Let a job that was put back start at once, when Slurm has done with its last start."""
    until(lambda: queue(job).get(job) == "PENDING", 60)
    time.sleep(5)
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)


def take_both_nodes(folder):
    """A job of higher priority that needs all there is; returns when it was submitted."""
    command = ["sbatch", "-p", "urgent", "-N2", "--ntasks-per-node=1", f"-c{os.cpu_count()}"]
    command += ["--mem=100", "-o", str(folder / "urgent.log"), "--wrap", "srun true"]
    now = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return now


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What two slow cells come to on this machine when nobody disturbs them."""
    matrix = Matrix(
        tmp_path_factory.mktemp("undisturbed"),
        axes={"precond": ["slow"], "seed": [0, 1]},
        budgets=[10, 300],
        launch={"launcher": "local", "slots": 2, "threads": 1},
    )
    finish(matrix.run())
    return matrix.values()


def test_an_array_with_a_limit_and_a_failing_preconditioning(conf, tmp_path):
    matrix = Matrix(
        tmp_path,
        axes={"precond": ["ctm", "edm", "broken"], "seed": [0, 1]},
        budgets=[10, 25],
        slurm={"parallel": 2},
    )
    process = matrix.run()
    most = 0
    while process.poll() is None:
        most = max(most, [*queue().values()].count("RUNNING"))
        time.sleep(0.5)
    out, err = finish(process, 1)
    assert most == 2
    assert "6 cells handed to Slurm" in out
    assert "Leaderboard" in out
    assert err.count("no coefficients today") == 2
    states = {run.run_id.split("-")[0]: run.status()["state"] for run in matrix.runs()}
    assert states == {"ctm": "done", "edm": "done", "broken": "failed"}
    matrix.tell("array of 6, 2 at a time, 2 broken")


@pytest.mark.parametrize("warned", [False, True], ids=["SIGTERM", "USR2"])
def test_a_preempted_cell_goes_on_where_it_was(conf, tmp_path, undisturbed, warned):
    """Both nodes are taken by a job of higher priority; with and without a signal of our own."""
    text = conf.read_text()
    if warned:
        conf.write_text(text + "SlurmctldParameters=preempt_send_user_signal\n")
        subprocess.run(["scontrol", "reconfigure"], check=True)
    matrix = Matrix(tmp_path, axes={"precond": ["slow"], "seed": [0, 1]}, budgets=[10, 300])
    process = matrix.run()
    until(lambda: len(matrix.runs()) == 2 and all(training(run, 30) for run in matrix.runs()))
    warned_at = take_both_nodes(tmp_path)
    for run in matrix.runs():
        release(matrix.job(run)[1])
    finish(process)
    assert matrix.values() == undisturbed
    for run in matrix.runs():
        folder, job = matrix.job(run)
        names = [event["event"] for event in folder.events(job)]
        assert names[:3] == ["started", "requeued", "started"]
        assert "resumed from" in (run.path / "worker.log").read_text()
    matrix.tell(f"2 cells preempted ({'USR2' if warned else 'SIGTERM alone'})", warned_at)
    if warned:
        conf.write_text(text)
        subprocess.run(["scontrol", "reconfigure"], check=True)


def test_a_time_limit_puts_a_cell_back_until_it_is_done(conf, tmp_path):
    """One minute a start, of which 15 s are for saving: the cell needs more."""
    matrix = Matrix(tmp_path, axes={"precond": ["slow"]}, budgets=[10, 400], slurm={"minutes": 1})
    process = matrix.run()
    run = until(lambda: next(iter(matrix.runs()), None))
    folder, job = until(lambda: run.run_id in newest_jobs(matrix.store.root) and matrix.job(run))
    released = 0
    while process.poll() is None:
        requeued = sum(event["event"] == "requeued" for event in folder.events(job))
        if requeued > released:
            release(job)
            released += 1
        time.sleep(0.5)
    finish(process)
    assert released >= 1
    assert max(row.step for row in run.rows().values()) == 400
    matrix.tell("time limit of 1 minute")


def test_a_time_limit_ends_a_cell_that_may_not_go_back(conf, tmp_path):
    matrix = Matrix(
        tmp_path,
        axes={"precond": ["slow"]},
        budgets=[10, 5000],
        slurm={"minutes": 1, "requeues": 0},
    )
    _, err = finish(matrix.run(), 1)
    assert "ran out of its time too often" in err
    (run,) = matrix.runs()
    assert run.status()["state"] == "timeout"
    assert list((run.path / "checkpoints").glob("step-*"))
    matrix.tell("time limit, no requeue allowed")


def test_scancel_and_requeue_by_hand(conf, tmp_path, undisturbed):
    """Of two cells one is put back by the administrator, the other cancelled, then run again."""
    matrix = Matrix(tmp_path, axes={"precond": ["slow"], "seed": [0, 1]}, budgets=[10, 300])
    process = matrix.run()
    until(lambda: len(matrix.runs()) == 2 and all(training(run, 30) for run in matrix.runs()))
    first, second = matrix.runs()
    subprocess.run(["scontrol", "requeue", matrix.job(first)[1]], check=True)
    subprocess.run(["scancel", matrix.job(second)[1]], check=True)
    release(matrix.job(first)[1])
    _, err = finish(process, 1)
    assert f"{second.run_id}: interrupted: stopped at step" in err
    assert "CANCELLED" in err
    assert first.status()["state"] == "done"
    out, _ = finish(matrix.run())
    assert "1 cells handed to Slurm" in out
    assert matrix.values() == undisturbed
    matrix.tell("1 put back by hand, 1 cancelled and run again")


def test_leaving_and_coming_back_submits_nothing_twice(conf, tmp_path):
    matrix = Matrix(tmp_path, axes={"precond": ["slow"], "seed": [0, 1]}, budgets=[10, 200])
    out, _ = finish(matrix.run("--detach"))
    assert "2 cells handed to Slurm" in out
    process = matrix.run()
    until(lambda: all(training(run) for run in matrix.runs()))
    process.send_signal(signal.SIGINT)
    out, err = finish(process, 130)
    assert "2 cells are worked on already" in out
    assert "the jobs go on" in err
    out, _ = finish(matrix.run())
    assert len(list((tmp_path / "results" / "slurm").glob("*/order.json"))) == 1
    assert "Leaderboard" in out
    assert "nothing to do" in finish(matrix.run())[0]
    matrix.tell("detached, joined, left, joined again")


def test_a_job_that_is_shot_is_told_from_one_that_failed(conf, tmp_path, undisturbed):
    """kill -9 of the job itself: its ranks end with it, `run` says so and continues it later."""
    matrix = Matrix(tmp_path, axes={"precond": ["slow"], "seed": [0, 1]}, budgets=[10, 300])
    process = matrix.run()
    until(lambda: len(matrix.runs()) == 2 and all(training(run, 30) for run in matrix.runs()))
    victim = matrix.runs()[0]
    worker = victim.status()["pid"]
    job = int(Path(f"/proc/{worker}/stat").read_text().split(") ")[1].split()[1])
    os.kill(job, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{worker}").exists(), 10)
    _, err = finish(process, 1)
    assert "its job ended before it did" in err
    assert matrix.runs()[1].status()["state"] == "done"
    finish(matrix.run())
    assert matrix.values() == undisturbed
    matrix.tell("1 job killed with -9, run again")


def test_a_cell_over_two_nodes(conf, tmp_path):
    """Preempted, put back, one rank killed: the weights are those of one process."""
    two = Matrix(
        tmp_path,
        axes={"precond": ["slow"]},
        budgets=[10, 150],
        launch={"nodes": 2, "processes": 2},
    )
    process = two.run()
    run = until(lambda: next(iter(two.runs()), None))
    until(lambda: training(run, 20))
    warned_at = take_both_nodes(tmp_path)
    release(two.job(run)[1])
    until(lambda: training(run, 60))
    workers = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if str(run.path).encode() in _read(path / "cmdline")
    ]
    assert len(workers) == 2
    os.kill(next(pid for pid in workers if pid != run.status()["pid"]), signal.SIGKILL)
    finish(process)
    assert "process 1 was killed (SIGKILL" in (run.path / "worker.log").read_text()
    folder, job = two.job(run)
    assert [e["event"] for e in folder.events(job)][:3] == ["started", "requeued", "started"]
    two.tell("1 cell on 2 nodes, preempted, a rank killed", warned_at)
    (tmp_path / "one").mkdir()
    one = Matrix(
        tmp_path / "one",
        axes={"precond": ["slow"]},
        budgets=[10, 150],
        launch={"launcher": "local"},
    )
    finish(one.run())
    name = "ema/step-00000150.safetensors"
    ours = load_file(run.path / name)
    for key, value in load_file(one.runs()[0].path / name).items():
        assert float((value - ours[key]).abs().max()) < 1e-6


def test_accelerate_starts_the_processes_of_two_nodes(conf, tmp_path):
    config = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU"}
    config |= {"mixed_precision": "no", "rdzv_backend": "static", "same_network": True}
    (tmp_path / "accelerate.yaml").write_text(
        yaml.safe_dump(config | {"num_machines": 2, "num_processes": 2})
    )
    matrix = Matrix(
        tmp_path,
        axes={"precond": ["ctm"]},
        budgets=[10, 25],
        launch={
            **{"nodes": 2, "processes": 2, "environment": {"ACCELERATE_USE_CPU": "true"}},
            "accelerate_config": str(tmp_path / "accelerate.yaml"),
        },
    )
    finish(matrix.run())
    (run,) = matrix.runs()
    assert json.loads((run.path / "provenance.json").read_text())["processes"] == 2
    matrix.tell("1 cell on 2 nodes by accelerate launch")


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
