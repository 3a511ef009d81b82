"""The noise levels of a discrete variance-preserving schedule, from scheduler_config.json.

sigma_k = sqrt((1 - abar_k) / abar_k), abar_k the running product of 1 - beta. Names and formulas of
the betas are those of diffusers' DDPMScheduler and DDIMScheduler.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")


def levels(config: dict[str, Any]) -> list[float]:
    """Noise levels of timesteps 0..T-1, increasing.

    Raises:
        ValueError: the scheduler is of another kind, or its levels are not finite and increasing.
    """
    if config.get("_class_name") not in SCHEDULERS:
        raise ValueError(f"the scheduler is {config.get('_class_name')}, not one of {SCHEDULERS}")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr makes the last noise level infinite")
    found, abar = [], 1.0
    for beta in _betas(config):
        abar *= 1 - beta
        if not 0 < abar < 1:
            raise ValueError("the betas are not between 0 and 1")
        found.append(math.sqrt((1 - abar) / abar))
    if len(found) < 2 or any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError("the noise levels do not increase")
    return found


def _betas(config: dict[str, Any]) -> list[float]:
    if config.get("trained_betas") is not None:
        return [float(beta) for beta in config["trained_betas"]]
    count = int(config.get("num_train_timesteps", 1000))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return _line(first, last, count)
    if kind == "scaled_linear":
        return [root**2 for root in _line(math.sqrt(first), math.sqrt(last), count)]
    if kind == "sigmoid":
        steps = _line(-6, 6, count)
        return [first + (last - first) / (1 + math.exp(-step)) for step in steps]
    if kind == "squaredcos_cap_v2":

        def abar(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        return [min(1 - abar((k + 1) / count) / abar(k / count), 0.999) for k in range(count)]
    raise ValueError(f"beta_schedule {kind!r} is unknown")


def _line(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * k / max(count - 1, 1) for k in range(count)]
