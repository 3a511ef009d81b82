"""Run by test_fid_processes.py as a process of its own: one evaluation in 1, 2 and 3 processes."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, debug_launcher

from harness.api import DatasetSpec, TeacherSpec
from harness.core.random import normal
from harness.evaluate import evaluator as module
from harness.store.records import Measure, Request

SHAPE = (1, 8, 8)
METRICS = ["frechet", "kid", "precision"]


class Images:
    """A data set of smooth random images."""

    spec = DatasetSpec(SHAPE, "images", size=150)

    def draw(self, seed, purpose, numbers):
        return torch.tanh(normal(seed, purpose, 0, numbers, SHAPE)), None


class Teacher:
    """Only its spec is asked for."""

    spec = TeacherSpec(SHAPE, 0.5, "teacher")


class Student:
    """A jump that is deterministic and bounded."""

    def jump(self, x, t, s, labels=None):
        return torch.tanh(x / t.reshape(-1, 1, 1, 1).float() + 0.2)


def work(out):
    """Measure, and let the main process write what it found."""
    torch.set_num_threads(1)
    module.IMAGE_BLOCK = 32
    accelerator = Accelerator(cpu=True)
    request = Request([1], [1], METRICS, ["digits-cnn"], samples=167)
    evaluator = module.Evaluator(Teacher(), Images(), request, accelerator, Path(out))
    measures = [Measure(1, 1, name, "digits-cnn", 167) for name in METRICS]
    scores = evaluator.measure(Student(), measures)
    if accelerator.is_main_process:
        found = {measure.metric: score.value for measure, score in scores.items()}
        path = Path(out) / f"{accelerator.num_processes}.json"
        path.write_text(json.dumps(found))


if __name__ == "__main__":
    for world in (1, 2, 3):
        debug_launcher(work, (sys.argv[1],), num_processes=world)
