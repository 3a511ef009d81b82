"""A cell that spans machines: two groups of processes on this one that share only a folder."""

import os
import signal
import time
from dataclasses import asdict

import pytest
from safetensors.torch import load_file

from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.runner import local, meeting
from harness.runner.following import Following
from harness.runner.watch import Watched
from harness.store.files import write_json
from harness.store.records import State
from harness.store.store import ResultStore


def opened(grid, results, processes):
    """A cell's folder with its request, and how to launch it."""
    settings = [f"results={results}", f"launch.processes={processes}", "launch.slots=1"]
    if processes > 1:
        settings += ["launch.launcher=slurm", f"launch.nodes={processes}"]
    matrix = expand(load_grid(grid, settings), ["precond=ctm"])
    run = ResultStore(results).prepare().open(matrix.specs[0])
    write_json(run.path / "request.json", asdict(matrix.request))
    return run, matrix.grid.launch


def poll(*groups, until=lambda: False, seconds=120):
    """PlotStyle after some groups until all have ended or something is the case."""
    deadline, left = time.monotonic() + seconds, list(groups)
    while left and not until():
        assert time.monotonic() < deadline, "it hangs"
        left = [group for group in left if not group.poll()]
        time.sleep(0.05)


@pytest.mark.slow
def test_two_machines_survive_a_death_and_train_the_weights_of_one(grid, tmp_path, monkeypatch):
    """A process of the second dies while one of the first hangs: both start again, and agree."""
    monkeypatch.setattr(local, "FAREWELL", 1.0)
    run, launch = opened(grid, tmp_path / "two", 2)
    first = Watched(run, launch, node=local.Node(0, "127.0.0.1", job="7.0"))
    second = Following(run, launch, [], local.Node(1, job="7.0"))
    poll(first, second, until=lambda: run.status().get("phase") == "training")
    started = second.node.attempt
    (hangs,), (dies,) = first.handle.processes.values(), second.handle.processes.values()
    os.kill(hangs.pid, signal.SIGSTOP)
    os.kill(dies.pid, signal.SIGKILL)
    killed = time.monotonic()
    poll(first, second, until=lambda: second.node.attempt != started)
    assert time.monotonic() - killed < 20
    poll(first)
    assert run.status()["state"] == State.DONE
    assert first.attempts == 2
    assert "process 1 was killed (SIGKILL" in (run.path / "worker.log").read_text()
    assert not second.poll()
    meeting.dismiss(run, "7.0")
    poll(second)
    assert (run.path / "worker-1.log").exists()

    alone, launch = opened(grid, tmp_path / "one", 1)
    poll(Watched(alone, launch))
    name = "ema/step-00000025.safetensors"
    ours, theirs = load_file(run.path / name), load_file(alone.path / name)
    for key, value in theirs.items():
        assert float((value - ours[key]).abs().max()) < 1e-6
    for measure, row in alone.rows().items():
        assert run.rows()[measure].value == pytest.approx(row.value, rel=1e-4, abs=1e-7)


def test_calls_of_an_earlier_start_are_not_answered(tmp_path, grid, monkeypatch):
    run, launch = opened(grid, tmp_path, 2)
    monkeypatch.setattr("harness.runner.following.LOOK", 0.0)
    meeting.dismiss(run, "7.0")
    second = Following(run, launch, [], local.Node(1, job="7.1"))
    assert not second.poll()
    assert second.handle is None
    meeting.dismiss(run, "7.1")
    assert second.poll()


def test_accelerate_is_told_the_place_of_a_node(grid, harness, tmp_path):
    _, launch = opened(grid, tmp_path, 2)
    launch = launch.model_copy(update={"accelerate_config": "a.yaml"})
    told = " ".join(local._command(launch, local.Node(1, "node-a"), 4711))
    for flag in (
        *("--config_file a.yaml", "--num_processes 2", "--num_machines 2", "--machine_rank 1"),
        *("--main_process_ip node-a", "--main_process_port 4711"),
    ):
        assert flag in told
    code, _, err = harness(
        "run", "--matrix", grid, "--set", "launch.accelerate_config=nowhere.yaml"
    )
    assert code == 2
    assert "nowhere.yaml: no such file" in err
