"""A replacement of accelerate's `Accelerator` for one process on one device, without global state.

An Accelerator sets device and precision of the whole process; there may be several `Machine`s.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from harness.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """One process on one device; `precision` as in `train.precision`."""

    device: torch.device
    precision: str = "fp32"
    num_processes: int = 1
    process_index: int = 0
    is_main_process: bool = True

    @classmethod
    def named(cls, device: str, precision: str) -> Machine:
        """The device of `launch.device`: auto, cpu or cuda.

        Raises:
            ConfigError: `cuda` is asked for and torch sees no GPU.
        """
        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise ConfigError("device cuda: torch sees no GPU here; use device cpu")
        return cls(torch.device("cuda" if gpu and device != "cpu" else "cpu"), precision)

    def wait_for_everyone(self) -> None:
        """As `Accelerator.wait_for_everyone`; does nothing for a single process."""

    def autocast(self) -> AbstractContextManager:
        """As `Accelerator.autocast`."""
        low = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)
