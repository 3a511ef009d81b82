"""Killing a matrix again and again, and finishing it: rounds on fresh folders, each compared."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults import outcome, plan

ROOT = Path(__file__).parents[2]
#: cells of a second of work; retries without end, since every one of ours is another death
GRID = """\
version: 1
name: faults
axes:
  precond: [ctm, {name: analytic, params: {levels: 12, samples: 64}}]
  teacher: [gmm]
  objective: [cd]
  seed: [0, 1]
exclude: [{precond: analytic, seed: 1}]
train: {batch: 32, lr: 1.0e-3, ema: 0.9, checkpoint_every: 20, log_every: 10}
backbone: {width: 16, depth: 1, fit_steps: 20, fit_batch: 64}
budgets: [10, 25, 45, 70, 100]
evaluate: {nfe: [1, 2], samples: 200, metrics: [alignment, frechet], ode_steps: 32}
launch: {device: cpu, slots: 2, threads: 1, retries: 1000}
"""
TWO = ["launch.processes=2", "launch.slots=1", "axes.seed=[0]"]
PR_SET_CHILD_SUBREAPER = 36
ENDINGS = (0, 1, 130, -signal.SIGKILL, -signal.SIGTERM)
GONE = 15.0  # seconds within which a dead runner's workers must have ended


@dataclass
class Tally:
    """What a campaign did and found."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    runs: int = 0
    rows: int = 0
    lost: int = 0
    duplicates: int = 0
    orphans: int = 0
    slowest_end: float = 0.0
    cpu: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, doubled or left running."""
        return not (self.wrong or self.lost or self.duplicates or self.orphans)


class Campaign:
    """Rounds of killing in a folder of its own.

    Whoever loses its parent becomes our child, so that its time is counted and it leaves no zombie.

    Args:
        blows: from outside, at random, in the time that the undisturbed matrix takes; 0 leaves it
            to the chosen moments.
        settings: of the grid, for a smaller one.
    """

    def __init__(
        self, folder: Path, seed: int, blows: float = 3.0, settings: Sequence[str] = ()
    ) -> None:
        self.folder, self.blows, self.settings = folder, blows, settings
        self.random = random.Random(seed)
        self.tally = Tally()
        self.places = Deck(self.random)
        self.interval = 0.0  # mean seconds between two blows
        self._undisturbed: dict[int, outcome.Outcome] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "faults.yaml").write_text(GRID)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def round(self, processes: int, kills: int, until: float) -> None:
        """Kill the runs of one folder `kills` times or until they are done; finish and compare."""
        expected = self.undisturbed(processes)
        number = self.tally.rounds = self.tally.rounds + 1
        results = self.folder / f"round-{number:02d}"
        goal = self.tally.kills.total() + kills
        finished, launches = False, 0
        while not (finished or self.tally.wrong) and self._more(goal, until):
            launches += 1
            notes = self.folder / f"faults-{number:02d}-{launches:02d}"
            left = min(8, goal - self.tally.kills.total())
            places = self.places.deal(left)
            faults = [plan.draw(self.random, place) for place in places]
            environment = plan.write(notes, results, faults, patience=6.0)
            finished = self._launch(results, processes, environment, notes, goal)
            done = {int(path.name) for path in notes.glob("[0-9]*")}
            self.places.back([place for k, place in enumerate(places) if k not in done])
        process = self._start(
            results, processes, plan.write(self.folder, results, [], patience=6.0)
        )
        said = process.communicate(timeout=300)[0].decode()
        self.tally.runs += 1
        if process.returncode:
            self.tally.wrong.append(f"round {number}: the clean run failed:\n{said}")
            return
        found = outcome.read(results)
        self.tally.rows += len(found.rows)
        self.tally.lost += found.lost(expected)
        self.tally.duplicates += found.duplicates
        self.tally.wrong += [f"round {number}: {what}" for what in found.differences(expected)]

    def undisturbed(self, processes: int) -> outcome.Outcome:
        """What the matrix gives if nobody kills it."""
        if processes not in self._undisturbed:
            results = self.folder / f"undisturbed-{processes}"
            started = time.monotonic()
            process = self._start(results, processes, {})
            said = process.communicate(timeout=300)[0].decode()
            assert process.returncode == 0, said
            self._undisturbed[processes] = outcome.read(results)
            self.interval = (time.monotonic() - started) / self.blows if self.blows else 0.0
        return self._undisturbed[processes]

    def _more(self, goal: int, until: float) -> bool:
        return self.tally.kills.total() < goal and time.monotonic() < until

    def _launch(
        self, results: Path, processes: int, environment: dict[str, str], notes: Path, goal: int
    ) -> bool:
        """One `run`, struck from inside as planned and from outside at random."""
        process = self._start(results, processes, environment)
        self.tally.runs += 1
        outside: Counter[str] = Counter()
        before = self.tally.kills.total()
        due = time.monotonic() + self._wait()
        while process.poll() is None:
            time.sleep(0.02)
            if time.monotonic() < due:
                continue
            if before + len(plan.struck(notes)) + outside.total() >= goal:
                break
            if struck := self._strike(process, results):
                outside[struck] += 1
            due = time.monotonic() + self._wait()
        if process.poll() is None:  # enough
            process.send_signal(signal.SIGKILL)
            outside["runner SIGKILL"] += 1
        said = process.communicate()[0].decode()
        self._expect_no_orphans(results)
        self.tally.kills += outside + Counter(
            "chosen: " + re.sub(r" at (\w+) .*", r" at \1", line) for line in plan.struck(notes)
        )
        if "Traceback" in said or process.returncode not in ENDINGS:
            self.tally.wrong.append(f"a runner ended with {process.returncode}:\n{said}")
        return process.returncode == 0

    def _strike(self, process: subprocess.Popen[bytes], results: Path) -> str:
        """Kill something that runs; the name of what was done, or nothing if nothing was there."""
        targets = workers(results)
        what = self.random.choice(["rank"] * 5 + ["group"] * 2 + ["runner"] * 2 + ["all"])
        number = self.random.choice([signal.SIGKILL] * 5 + [signal.SIGTERM])
        if what in ("rank", "group") and not targets:
            return ""
        try:
            if what == "rank":
                self.random.choice(targets).send_signal(number)
            elif what == "group":
                os.killpg(os.getpgid(self.random.choice(targets).pid), signal.SIGKILL)
            else:
                if what == "all":
                    for target in targets:
                        target.kill()
                process.send_signal(number)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return ""
        return f"{what} {signal.Signals(number).name if what != 'group' else 'SIGKILL'}"

    def _expect_no_orphans(self, results: Path) -> None:
        """Whoever was ended, nothing of its kind may be left a few seconds later."""
        started = time.monotonic()
        while left := workers(results):
            waited = time.monotonic() - started
            if waited > GONE:
                self.tally.orphans += len(left)
                for worker in left:
                    worker.kill()
                return
            time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.tally.cpu = used.ru_utime + used.ru_stime
        self.tally.slowest_end = max(self.tally.slowest_end, time.monotonic() - started)

    def _start(
        self, results: Path, processes: int, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        settings = [f"results={results}", *(TWO if processes == 2 else []), *self.settings]
        return subprocess.Popen(
            [sys.executable, "-m", "harness", "run", "--matrix", self.folder / "faults.yaml"]
            + [word for setting in settings for word in ("--set", setting)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _wait(self) -> float:
        return self.random.expovariate(1 / self.interval) if self.interval else float("inf")


class Deck:
    """All places, shuffled and dealt; those where nothing came by go back to the bottom."""

    def __init__(self, random: random.Random) -> None:
        self.random = random
        self.hidden: list[plan.Place] = []

    def deal(self, count: int) -> list[plan.Place]:
        """The next places; at most one kills the runner, since that ends the rest."""
        dealt: list[plan.Place] = []
        aside = []
        while len(dealt) < count and len(aside) < len(plan.EVERYWHERE):
            if not self.hidden:
                self.hidden = self.random.sample(plan.EVERYWHERE, len(plan.EVERYWHERE))
            place = self.hidden.pop()
            if place[0] == "runner" and any(other[0] == "runner" for other in dealt):
                aside.append(place)
            else:
                dealt.append(place)
        self.hidden += reversed(aside)
        return dealt

    def back(self, places: Sequence[plan.Place]) -> None:
        """Put places under the deck."""
        self.hidden[:0] = places


def workers(results: Path) -> list[psutil.Process]:
    """Living workers of a results folder, wherever they hang in the tree of processes."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            mine = "harness.train" in line and any(str(results) in word for word in line)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
