"""GPUs and cores for cells, found without torch, whose import takes seconds and a CUDA context."""

from __future__ import annotations

import os
import subprocess

from harness.config.schema import Launch
from harness.errors import ConfigError


def cores() -> int:
    """Number of CPU cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible() -> list[str]:
    """GPUs that this process may use: CUDA_VISIBLE_DEVICES if set, else all of the machine."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


def shares(launch: Launch, gpus: list[str]) -> list[list[str]]:
    """GPUs of each slot, one per process, assigned round-robin; slots share them if too few.

    Empty lists on a machine without a GPU, or with `launch.device: cpu`.

    Raises:
        ConfigError: `device: cuda` without a GPU, or fewer GPUs than processes of a cell.
    """
    here = launch.processes // launch.nodes
    if launch.device == "cpu" or not gpus:
        if launch.device == "cuda":
            raise ConfigError(
                "launch.device: cuda, but no GPU is visible (CUDA_VISIBLE_DEVICES, nvidia-smi);"
                " use device: cpu"
            )
        return [[] for _ in range(launch.slots)]
    if here > len(gpus):
        raise ConfigError(
            f"launch.processes: a cell wants {here} GPUs on one machine, {len(gpus)} are visible;"
            " lower it, or use device: cpu"
        )
    return [
        [gpus[(slot * here + k) % len(gpus)] for k in range(here)] for slot in range(launch.slots)
    ]
