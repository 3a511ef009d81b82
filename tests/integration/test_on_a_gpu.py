"""The main job with a (pretended) GPU: the numbers of the host, and no stray tensor."""

import json

import pytest
import torch
import yaml

from harness.runner.devices import cores
from tests.conftest import ROOT, command

GPU = f"{ROOT / 'tests/pretended_gpu/startup'}:{ROOT}"
SHARED = {
    "version": 1,
    "budgets": [2, 3],
    "backbone": {"width": 16, "depth": 1, "fit_steps": 5, "fit_batch": 16},
    "train": {"batch": 8, "micro_batch": 4, "lr": 1e-3, "ema": 0.9},
}


def vectors():
    """Nothing to load; a preconditioning that measures the data too, a fitted backbone."""
    return {
        "axes": {
            "precond": [
                {"name": "analytic", "params": {"levels": 12, "samples": 16, "centre": True}}
            ],
            "teacher": ["gmm"],
        },
        "report": {"baseline": "analytic"},
        "evaluate": {
            "nfe": [2],
            "samples": 64,
            "metrics": ["alignment", "sliced-wasserstein", "frechet", "energy"],
            "ode_steps": 16,
        },
    }


def images():
    """A trained U-Net with its own data, features of a network."""
    return {
        "axes": {
            "precond": ["ctm"],
            "teacher": ["unet"],
            "objective": [{"name": "cd", "params": {"solver": "unipc"}}],
        },
        "evaluate": {
            "nfe": [2],
            "samples": 16,
            "metrics": ["alignment", "sliced-wasserstein", "frechet", "kid", "recall"],
            "extractors": ["digits-cnn"],
            "ode_steps": 16,
        },
    }


def numbers(folder, grid, environment, device="cpu"):
    """Every number of every cell, by run and by what was measured."""
    folder.mkdir()
    launch = {"device": device, "threads": 1, "environment": environment}
    path = folder / "grid.yaml"
    grid = SHARED | grid | {"name": "grid", "launch": launch, "results": str(folder / "results")}
    path.write_text(yaml.safe_dump(grid))
    process = command("run", "--matrix", path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return {
        (run.name, row["step"], row["metric"]): row["value"]
        for run in sorted((folder / "results" / "runs").iterdir())
        for row in map(json.loads, (run / "eval.jsonl").read_text().splitlines())
    }


@pytest.mark.parametrize("kind", [vectors, images])
def test_a_gpu_gives_the_numbers_of_the_host(kind, tmp_path):
    grid = kind()
    host = numbers(tmp_path / "host", grid, {})
    gpu = numbers(tmp_path / "gpu", grid, {"PYTHONPATH": GPU})
    assert len(host) == 2 * len(grid["evaluate"]["metrics"])
    # statistics are added up in other portions there, and a grey value may round the other way
    assert gpu == pytest.approx(host, rel=1e-3, abs=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_gpu_that_torch_cannot_use_is_an_error(grid, monkeypatch):
    """Not a run on the CPU that is a hundred times slower and says so in its provenance alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    process = command("run", "--matrix", grid, "--set", "launch.device=cuda", "--only", "seed=0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "launch.device: cuda, but torch" in out + err
    assert "cannot use the GPU that is visible here" in out + err
    assert "attempt 2" not in out + err


def test_threads_are_those_of_the_cores_that_are_allowed(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5, 6}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert cores() == 4
