"""Shared helpers: a tiny grid on disk, the command line in process and as a process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# how long an example takes is this machine's affair, the first import included
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]

TINY = """\
version: 1
name: tiny
axes:
  precond: [ctm, analytic]
  teacher: [gmm]
  seed: [0]
train: {batch: 32, lr: 1.0e-3, ema: 0.9, checkpoint_every: 10, log_every: 5}
backbone: {width: 16, depth: 1, fit_steps: 20, fit_batch: 64}
budgets: [10, 25]
evaluate: {nfe: [1, 2], samples: 200, metrics: [alignment, frechet], ode_steps: 32}
launch: {device: cpu, slots: 2, threads: 1}
"""


@pytest.fixture
def grid(tmp_path):
    """Path of a grid of two cells that trains in a second; results beside it."""
    path = tmp_path / "tiny.yaml"
    text = TINY.replace(
        "precond: [ctm, analytic]",
        "precond: [ctm, {name: analytic, params: {levels: 12, samples: 64}}]",
    )
    path.write_text(text + f"results: {tmp_path / 'results'}\n")
    return path


@pytest.fixture
def harness(capsys, monkeypatch):
    """Run a verb in this process; returns (exit code, stdout, stderr without progress)."""
    from harness.cli import main, waiting

    monkeypatch.setattr(waiting, "PATIENCE", math.inf)  # how long it takes is the machine's matter

    def run(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as error:
            code = error.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def forgotten():
    """Plugins that a test loads into this process are no business of other tests."""
    from harness.registry import FROM_FILE, registry

    yield
    for classes in registry._classes.values():
        for name in [n for n, cls in classes.items() if cls.__module__.startswith(FROM_FILE)]:
            del classes[name]
    for name in [name for name in sys.modules if name.startswith(FROM_FILE)]:
        del sys.modules[name]


def command(*arguments, environment=None, **options):
    """Start `python -m harness ...` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
