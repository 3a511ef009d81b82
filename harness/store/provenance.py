"""Provenance of a run: versions, hardware, commit. No user name, host name or home path."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("precondbench", "torch", "accelerate", "numpy", "scipy", "torch-fidelity", "clean-fid")


def collect(
    costs: dict[str, float],
    accelerator: Any,
    micro_batch: int,
    switches: dict[str, bool] | None = None,
    plugins: dict[str, str] | None = None,
    evaluation_batch: int | None = None,
) -> dict[str, Any]:
    """Provenance for provenance.json; times are comparable only for equal `hardware`.

    `plugins`: `kind name` -> digest of the file of a plugin that is not built in. Rows contain them
    as well, since a run may be extended after a plugin was edited.
    """
    import torch

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        # torch's own word says for which CUDA it was built
        "packages": {name: _version(name) for name in PACKAGES} | {"torch": torch.__version__},
        "commit": _commit(),
        "hardware": hardware(accelerator),
        "processes": accelerator.num_processes,
        "micro_batch": micro_batch,
        "evaluation_batch": evaluation_batch,
        "switches": switches or {},
        "plugins": plugins or {},
        "costs": costs,
    }


def hardware(accelerator: Any) -> str:
    """Number of processes and device type in one line; times are compared only if it is equal."""
    import torch

    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    else:
        device = f"{processor()}, {torch.get_num_threads()} threads"
    return f"{accelerator.num_processes} x {device}"


def processor() -> str:
    """The name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of the harness, with `+` if tracked files are modified; None if unknown."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None
