"""Run by test_calibration_processes.py as a process of its own: measure in 1, 2 and 3 processes."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, debug_launcher
from safetensors.torch import save_file

from harness.api import create_teacher, make_params
from harness.registry import registry
from harness.store.records import PluginSpec
from harness.train.cell import calibrated

PRECONDITIONINGS = {
    "moments": ("analytic", {"samples": 600, "levels": 24}),
    "jvp": ("analytic", {"samples": 600, "levels": 24, "statistics": "jvp"}),
    "trajectories": ("balanced", {"samples": 600, "levels": 12}),
    "rounds": ("moment", {"samples": 2048, "levels": 12, "tolerance": 0.01}),
}


def work(out):
    """Calibrate each one with the group; every process writes what it got and what it did."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    world, rank = accelerator.num_processes, accelerator.process_index
    teacher = create_teacher("gmm", dim=32, preset="random")
    inner, mine = teacher.denoise, []

    def denoise(x, sigma, labels=None):
        mine.append(len(x))
        return inner(x, sigma, labels)

    teacher.denoise = denoise
    results = Path(out) / str(world)
    found = {}
    for label, (name, given) in PRECONDITIONINGS.items():
        mine.clear()
        params = make_params("precond", name, given).model_dump(mode="json")
        spec = PluginSpec(name, registry.get("precond", name).revision, params, given)
        precond, _ = calibrated(spec, teacher, teacher.dataset(), results, torch.device("cpu"))
        found |= {f"{label}/{key}": value.clone() for key, value in precond.artifact.items()}
        found[f"{label}/mine"] = torch.tensor(sum(mine))
        calibrated(spec, teacher, teacher.dataset(), results, torch.device("cpu"))
        found[f"{label}/after"] = torch.tensor(sum(mine))
    accelerator.wait_for_everyone()
    save_file(found, Path(out) / f"{world}-{rank}.safetensors")


if __name__ == "__main__":
    for world in (1, 2, 3):
        debug_launcher(work, (sys.argv[1],), num_processes=world)
