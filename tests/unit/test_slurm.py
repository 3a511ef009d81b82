"""Cells as jobs of a cluster: what Slurm is asked, that nothing is submitted twice, saving in time.

Slurm itself is played by three small scripts here, or by submitit's executors that run jobs on this
machine; tests/slurm/ has the same against a real one.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.errors import HarnessError
from harness.runner import local, slurm, squeue
from harness.runner.job import CellJob
from harness.store.records import State
from harness.store.store import ResultStore
from harness.store.submissions import newest_jobs, submissions

pytest.importorskip("submitit")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """sbatch, srun and squeue that note what they are told; queue.txt is what squeue says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "queue.txt").write_text("")
    for name, does in {
        "sbatch": f'cat "$1" >> {tmp_path}/submitted.sh; echo Submitted batch job 77',
        "srun": "exit 1",
        "squeue": f'echo "$@" >> {tmp_path}/asked.txt; cat {tmp_path}/queue.txt',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def test_a_grid_becomes_one_array_with_its_resources(grid, harness, fake):
    settings = {
        "slurm": {
            **{"partition": "gpu", "account": "lab", "qos": "long", "gpus": 2, "cpus": 4},
            **{"mem_gb": 24, "minutes": 90, "parallel": 1, "setup": ["module load cuda"]},
            "extra": {"constraint": "a100", "exclusive": True},
        },
        "nodes": 2,
        "processes": 4,
        "threads": None,
    }
    flags = [f"--set=launch.{key}={json.dumps(value)}" for key, value in settings.items()]
    code, out, _ = harness("run", "--matrix", grid, "--launcher", "slurm", "--detach", *flags)
    assert code == 0
    assert "2 cells handed to Slurm as job 77" in out
    assert "scancel 77" in out
    script = (fake / "submitted.sh").read_text()
    for option in (
        *("array=0-1%1", "partition=gpu", "account=lab", "qos=long", "gpus-per-node=2", "nodes=2"),
        *("ntasks-per-node=1", "cpus-per-task=8", "mem=24GB", "time=90", "signal=USR2@300"),
        *("requeue", "constraint=a100", "exclusive"),
    ):
        assert f"#SBATCH --{option}\n" in script
    assert "module load cuda" in script
    assert "--kill-on-bad-exit=1" in script
    (submission,) = submissions(grid.parent / "results")
    assert submission.order()["launch"]["threads"] == 4
    assert submission.order()["launch"]["slots"] == 1


def test_nothing_is_submitted_twice(grid, harness, fake):
    arguments = ["run", "--matrix", grid, "--launcher", "slurm", "--detach"]
    harness(*arguments)
    first = sorted(newest_jobs(grid.parent / "results").values(), key=lambda found: found[1])
    assert [job for _, job in first] == ["77_0", "77_1"]
    (fake / "queue.txt").write_text("77_0|RUNNING|None\n77_1|PENDING|BeginTime\n")
    code, out, _ = harness(*arguments)
    assert code == 0
    assert "2 cells are worked on already" in out
    assert len(submissions(grid.parent / "results")) == 1
    (fake / "queue.txt").write_text("77_0|CANCELLED|None\n77_1|REQUEUED|None\n")
    _, out, _ = harness(*arguments)
    assert "1 cells handed to Slurm as job 77" in out
    assert "1 cells are worked on already" in out
    # a runner on this machine holds a cell: its lease says so, whatever Slurm has forgotten
    (fake / "queue.txt").write_text("")
    run = ResultStore(grid.parent / "results").runs()[0]
    with run.lease():
        _, out, _ = harness(*arguments)
        assert "1 cells handed to Slurm" in out
        assert "1 cells are worked on already" in out


def test_what_slurm_says_when_it_refuses_or_is_silent(grid, harness, fake, monkeypatch):
    arguments = ["run", "--matrix", grid, "--launcher", "slurm", "--detach"]
    refuse = "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n"
    (fake / "bin" / "sbatch").write_text(refuse)
    code, _, err = harness(*arguments)
    assert code == 1
    assert "invalid partition specified: gpu" in err
    run = ResultStore(grid.parent / "results").runs()[0]
    assert "invalid partition" in run.status()["reason"]
    assert "Traceback" not in err
    (fake / "bin" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1\n")
    with pytest.raises(HarnessError, match="Unable to contact"):
        squeue.states(["77_0"])
    (fake / "bin" / "squeue").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2; exit 1\n")
    assert squeue.states(["77_0"]) == {}
    monkeypatch.setenv("PATH", str(fake))
    code, _, err = harness(*arguments)
    assert code == 2
    assert "no sbatch" in err
    code, _, err = harness("run", "--matrix", grid, "--detach")
    assert code == 2
    assert "--launcher slurm" in err


def test_an_interrupt_ends_the_waiting_alone(grid, fake, monkeypatch, harness):
    (fake / "queue.txt").write_text("77_0|RUNNING|None\n77_1|PENDING|Priority\n")
    monkeypatch.setattr(slurm, "LOOK", 0.05)
    seen = []

    def look(runner):
        seen.append(runner.now)
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli.run.Progress.update", lambda _, runner: look(runner))
    code, _, err = harness("run", "--matrix", grid, "--launcher", "slurm")
    assert code == 130
    assert "the jobs go on" in err
    assert "1 pending (Priority)" in seen[0]


def test_processes_of_a_cell_never_receive_the_warning(tmp_path, grid, monkeypatch):
    """Slurm signals the whole step, and at any time: also before a worker could say it ignores."""
    asleep = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    monkeypatch.setattr(local, "_command", lambda *_: asleep)
    (run,) = planned(grid, only=["precond=ctm"])[3:]
    run = ResultStore(tmp_path / "r").open(run)
    handle = local.start(run, load_grid(grid).launch, [])
    handle.signal(signal.SIGUSR2)
    while (ended := handle.poll()) is None:
        time.sleep(0.05)
    assert ended.ok
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def planned(grid, *settings, only=()):
    """Store, request and launch of a grid, and the specs of some of its cells."""
    matrix = expand(load_grid(grid, settings), only)
    return ResultStore(matrix.grid.results), matrix.request, matrix.grid.launch, *matrix.specs


def alive(jobs):
    """What Slurm would say of submitit's local jobs, whose ids are those of processes."""
    found = {}
    for job in jobs:
        try:
            gone = Path(f"/proc/{job}/stat").read_text().split(") ")[1][0] == "Z"
        except OSError:
            gone = True
        found[job] = ("COMPLETED" if gone else "RUNNING", "")
    return found


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_warned_job_saves_and_goes_on_while_its_neighbour_fails(grid, monkeypatch):
    for name, seconds in {"ASK": 0.3, "LOOK": 0.1, "SETTLE": 5.0}.items():
        monkeypatch.setattr(slurm, name, seconds)
    settings = ["axes.precond=[ctm, bcm]", "launch.grace=0.5", "budgets=[10, 400]"]
    store, request, launch, good, bad = planned(grid, *settings)
    store.prepare().open(bad)
    (store.run_at(bad.run_id).path / "ema").write_text("not a folder")
    runner = slurm.Slurm(store, "tiny", [good, bad], request, launch, cluster="local", ask=alive)
    runner.submit()
    run = store.run_at(good.run_id)
    until(lambda: run.status().get("phase") == "training" and run.status()["step"] > 10)
    submission, job = newest_jobs(store.root)[run.run_id]
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    os.killpg(run.status()["pid"], signal.SIGUSR2)  # as Slurm does: everyone
    outcome = runner.wait()
    assert outcome.fresh == [good.run_id]
    assert "File exists" in outcome.failed[bad.run_id]
    events = submission.events(job)
    assert [event["event"] for event in events][:3] == ["started", "requeued", "started"]
    assert 10 < events[1]["step"] < 400
    assert f"resumed from step-{events[1]['step']:08d}" in (run.path / "worker.log").read_text()
    # once more in this very process, as submitit's debugger runs it: nothing is left to do
    import submitit

    cell = CellJob(str(submission.folder), run.run_id)
    assert submitit.AutoExecutor(submission.folder, "debug").submit(cell).result() == State.DONE
