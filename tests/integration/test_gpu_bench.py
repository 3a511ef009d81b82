"""benchmarks/gpu.py, rehearsed at small size on the host."""

import json
import subprocess
import sys
import time

from benchmarks import gpu
from tests.conftest import ROOT

PARTS = ["ceilings", "cifar10 bf16", "evaluation"]


def start(out, *words):
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


def test_parts_are_measured_and_a_second_start_does_what_is_missing(tmp_path):
    first = start(tmp_path, "--only", "ceilings")
    assert first.returncode == 0, first.stdout + first.stderr
    known = json.loads((tmp_path / "gpu.json").read_text())["parts"]["ceilings"]
    done = start(tmp_path, "--only", ",".join(PARTS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ceilings: done" not in done.stdout
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["ceilings"] == known
    assert set(parts) == set(PARTS)
    steps = parts["cifar10 bf16"]["steps"]
    assert [row["h"] for row in steps] == [1, 4]
    assert all(row["s"] > 0 and row["straight / ours"] > 0 for row in steps)
    assert all(2 * row["h"] + 6 <= row["evaluations"] <= 2 * row["h"] + 10 for row in steps)
    assert parts["evaluation"]["inception_images_per_s"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "A step of CTM" in text
    assert known["facts"]["hardware"] in text


def test_a_part_that_is_late_is_ended_and_told(tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    path = tmp_path / "gpu.json"
    gpu.note(path, "late", steps=[1])
    gpu._await("late", process, time.monotonic() + 2, path)
    part = {"steps": [1], "done": False, "error": "ended at its time limit"}
    assert gpu.read(path)["parts"]["late"] == part
    assert "begun" in (tmp_path / "gpu.log").read_text()
    assert "late: ended at its time limit" in gpu.markdown(gpu.read(path))
