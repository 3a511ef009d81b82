"""A distance does not depend on the number of processes that sampled and extracted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_same_values_for_one_two_and_three_processes(tmp_path):
    script = Path(__file__).with_name("fid_processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        # several threads add up in an order of their own
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two, three = (json.loads((tmp_path / f"{k}.json").read_text()) for k in (1, 2, 3))
    assert one["frechet"] > 0
    for other in (two, three):
        assert other == pytest.approx(one, rel=1e-9, abs=0)
