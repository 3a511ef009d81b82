"""Asynchronous copies from host to device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`; the copy is queued behind what the device is doing.

    It goes by way of pinned memory: a copy from pageable memory first waits for all that is queued.
    """
    if device.type == "cuda":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)
