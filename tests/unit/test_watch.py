"""The runner's watch over a cell, with stand-ins for workers that die, hang and refuse at once."""

import io
import json
import os
import signal
import sys
import time

import pytest
import torch

from harness.config.schema import Launch
from harness.runner import local, watch
from harness.runner.scheduler import Scheduler
from harness.runner.watch import Watched
from harness.store.records import PluginSpec, Request, RunSpec, State
from harness.store.store import ResultStore
from harness.train.status import explain

REQUEST = Request([1], [1], ["frechet"], ["raw"], 10, device="cpu")
#: a worker that does one thing a start: the words of `script`, one after the other
WORKER = """\
import json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
rank = int(os.environ.get("RANK", 0))
start = run / f"starts-{rank}"
number = len(start.read_text()) if start.exists() else 0
start.write_text("x" * (number + 1))
def beat(state="running", **more):
    text = json.dumps({"state": state, "reason": "", "updated": time.time(), "phase": "training",
                       "step": 7, **more})
    aside = run / f".aside-{rank}"
    aside.write_text(text)
    aside.rename(run / "status.json")
def fail(state, cause, **more):
    note = {"state": state, "reason": "its reason", "cause": cause, "time": time.time(), **more}
    (run / f"failure-{rank}.json").write_text(json.dumps(note))
def row():
    row = {"step": 1, "images": 4, "seconds": 1.0, "nfe": 1, "metric": "frechet", "value": 2.0,
           "extractor": "raw", "n": 10, "reference_n": 10}
    (run / "eval.jsonl").write_text(json.dumps(row) + "\\n")
def polite(*_):
    fail("interrupted", "interrupted")
    beat("interrupted")
    os._exit(130)
word = json.loads((run / "script.json").read_text())[number]
if isinstance(word, list):
    word = word[rank]
beat()
if word in ("polite", "busy"):
    signal.signal(signal.SIGTERM, polite)
if word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(run / f"ready-{rank}").touch()
while word in ("polite", "deaf", "hang", "busy"):
    time.sleep(0.02)
    if word == "busy":
        beat()
if word == "done":
    row(), beat("done")
if word == "late":
    row(), os.kill(os.getpid(), 9)
if word == "killed":
    (run / "dying").touch()
    os.kill(os.getpid(), 9)
if word == "memory":
    asked = json.loads((run / "request.json").read_text())
    fail("failed", "memory", tried=["micro_batch", asked["micro_batch"] or 12])
if word == "samples":
    asked = json.loads((run / "request.json").read_text())
    fail("failed", "memory", tried=["evaluation_batch", asked["evaluation_batch"] or 5])
if word == "refused":
    fail("failed", "refused")
if word == "lost":  # what it talked to
    while not (run / "dying").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    fail("failed", "device")
if word == "mistaken":
    fail("failed", "unexpected")
sys.exit(0 if word == "done" else 1)
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    monkeypatch.setattr(local, "_command", lambda *_: [sys.executable, "-S", "-E", str(path)])
    monkeypatch.setattr(watch, "LOOK", 0.02)
    return ResultStore(tmp_path / "results").prepare()


def spec(seed=0):
    plugin, objective = PluginSpec("x", 1), PluginSpec("ctm", 1)
    return RunSpec(plugin, plugin, objective, plugin, seed, {"batch": 12}, None, {})


def prepared(store, *script, seed=0):
    run = store.open(spec(seed))
    (run.path / "script.json").write_text(json.dumps(script))
    run.write_request(REQUEST)
    return run


def watched(run, until=None, **launch):
    """Watch a run to its end; `until` is called now and then with the watch."""
    found = Watched(run, Launch(device="cpu", **launch))
    deadline = time.monotonic() + 20
    while not found.poll():
        assert time.monotonic() < deadline
        if until is not None:
            until(found)
        time.sleep(0.01)
    return run.status()


def log(run):
    return (run.path / "worker.log").read_text()


def test_a_worker_that_was_killed_is_started_again(store):
    run = prepared(store, "killed", "done")
    assert watched(run)["state"] == State.DONE
    assert "the worker was killed (SIGKILL, by hand or for want of memory)" in log(run)
    assert "attempt 2" in log(run)


def test_but_not_for_ever(store):
    run = prepared(store, "killed", "killed", "done")
    status = watched(run, retries=1)
    assert (status["state"], status["attempts"], status["step"]) == (State.FAILED, 2, 7)
    assert "was killed (SIGKILL" in status["reason"]


def test_killed_after_its_last_number_it_is_done(store):
    run = prepared(store, "late", "killed")
    assert watched(run)["state"] == State.DONE
    assert (run.path / "starts-0").read_text() == "x"


@pytest.mark.parametrize("word", ["refused", "mistaken"])
def test_wrong_input_and_a_plugins_own_error_are_not_tried_again(store, word):
    status = watched(prepared(store, word, "done"))
    assert (status["state"], status["reason"], status["attempts"]) == (
        State.FAILED,
        "its reason",
        1,
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("boom"), "unexpected"),
        (NotImplementedError("outer"), "unexpected"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (cuda:0)"), "unexpected"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"), "memory"),
        (RuntimeError("[/third_party/gloo/tcp/pair.cc:5] Connection closed by peer"), "device"),
        (torch.distributed.DistNetworkError("The client socket has timed out"), "device"),
    ],
    ids=str,
)
def test_devices_and_lost_processes_are_worth_another_try_mistakes_are_not(error, cause):
    assert explain(error)[1] == cause
    assert (cause in watch.TRANSIENT) == (cause == "device")


def test_one_that_hangs_is_ended_and_started_again(store):
    run = prepared(store, "hang", "done")
    assert watched(run, stall=0.5 / 60)["state"] == State.DONE
    assert "no sign of life for" in log(run)


def test_signs_of_life_are_enough(store):
    run = prepared(store, "busy")
    began = time.monotonic()

    def end(watch):
        if time.monotonic() - began > 1.2:
            watch.stop()

    assert watched(run, end, stall=0.5 / 60, retries=0)["state"] == State.INTERRUPTED


def test_one_that_takes_too_long_is_asked_then_killed(store):
    for word in ("polite", "deaf"):
        run = prepared(store, word, seed=len(word))
        status = watched(run, timeout=0.6 / 60, grace=0.3 / 60)
        assert status["state"] == State.TIMEOUT
        assert "launch.timeout" in status["reason"]
        assert (run.path / "starts-0").read_text() == "x"


def test_asked_to_end_it_gets_its_grace_and_no_more(store):
    run = prepared(store, "deaf")
    began = time.monotonic()

    def stop(watch):
        if (run.path / "ready-0").exists() and not watch._asked:
            watch.stop()

    status = watched(run, stop, grace=0.5 / 60)
    assert (status["state"], status["reason"]) == (
        State.INTERRUPTED,
        "interrupted before it could save",
    )
    assert time.monotonic() - began > 0.5


def test_less_memory_at_a_time_is_no_retry(store):
    run = prepared(store, "memory", "samples", "memory", "samples", "killed", "done")
    assert watched(run, retries=1)["state"] == State.DONE
    assert run.request.micro_batch == 3  # 12, 6, 3: all divide the batch of 12
    assert run.request.evaluation_batch == 1  # 5, 2, 1
    assert "out of memory: micro_batch is now 6" in log(run)


def test_the_rank_that_was_killed_is_named_not_the_ones_that_lost_it(store):
    run = prepared(store, ["lost", "killed"], ["hang", "killed"])
    status = watched(run, processes=2, retries=1)
    assert log(run).count("process 1 was killed (SIGKILL") == 1
    assert "process 1 was killed (SIGKILL" in status["reason"]


def test_who_was_killed_comes_first_if_all_are_found_ended():
    class Ended:
        def __init__(self, code):
            self.poll = lambda: code

    ended = local.Handle({0: Ended(1), 1: Ended(-9), 2: Ended(0)}, io.BytesIO()).poll()
    assert (ended.first, ended.ok) == (1, False)


def test_the_others_are_ended_when_one_fails(store, monkeypatch):
    monkeypatch.setattr(local, "FAREWELL", 0.3)
    run = prepared(store, ["deaf", "refused"])
    status = watched(run, processes=2)
    assert (status["state"], status["reason"]) == (State.FAILED, "its reason")


def interrupt(store, *runs, times, progress=lambda scheduler: None):
    """A scheduler over runs, interrupted `times` once all their workers are ready."""
    left = [times]

    def alarm(*_):
        left[0] -= 1
        if left[0]:
            signal.setitimer(signal.ITIMER_REAL, 0.4)
        raise KeyboardInterrupt

    def watch(scheduler):
        if left[0] == times and all((run.path / "ready-0").exists() for run in runs):
            signal.setitimer(signal.ITIMER_REAL, 0.01)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        specs = [spec(seed) for seed, _ in enumerate(runs)]
        launch = Launch(device="cpu", slots=len(runs))
        return Scheduler(store, specs, REQUEST, launch, watch).run()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_lets_workers_save(store, capsys):
    runs = [prepared(store, "polite", seed=seed) for seed in range(2)]
    assert interrupt(store, *runs, times=1).interrupted
    assert capsys.readouterr().err == "saving; a second Ctrl-C kills\n"
    for run in runs:
        assert run.status()["state"] == State.INTERRUPTED
        assert not (run.path / ".lease").exists()


def test_a_second_one_kills(store):
    run = prepared(store, "deaf")
    assert interrupt(store, run, times=2).interrupted
    status = run.status()
    assert (status["state"], status["reason"]) == (
        State.INTERRUPTED,
        "interrupted before it could save",
    )
    assert not (run.path / ".lease").exists()


def test_what_was_killed_in_mid_write_is_tidied_away(store):
    run = prepared(store, "done")
    (run.path / "checkpoints" / ".step-00000001.7.tmp").mkdir(parents=True)
    (run.path / "checkpoints" / ".step-00000001.7.tmp" / "x").touch()
    (run.path / ".spec.json.7.tmp").touch()
    outcome = Scheduler(store, [spec()], REQUEST, Launch(device="cpu")).run()
    assert outcome.done == [run.run_id]
    assert not list(run.path.rglob("*.tmp"))


def test_a_damaged_run_costs_only_itself(store):
    damaged, whole = prepared(store, "done"), prepared(store, "done", seed=1)
    (damaged.path / "eval.jsonl").write_text("garbage\n{}\n")
    outcome = Scheduler(store, [spec(0), spec(1)], REQUEST, Launch(device="cpu")).run()
    assert outcome.done == [whole.run_id]
    assert "line 1 is damaged" in outcome.failed[damaged.run_id]
    assert os.listdir(damaged.path)  # nothing of it is removed
