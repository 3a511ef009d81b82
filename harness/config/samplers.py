"""Convert the samplers of a grid, given by name or with parameters, to names."""

from __future__ import annotations

from typing import Any

from harness.core.sampler import Sampler
from harness.errors import nearest

KEYS = ("times", "gamma", "clip")


def sampler_names(entry: Any) -> list[str]:
    """Names of the samplers that one entry of `evaluate.samplers` stands for.

    `exact`, `exact@trained`, `{gamma: {gamma: 0.5}}`, `{exact: {times: trained}}`, or with levels
    for one or several numbers of steps `{stochastic: {times: {1: [80], 2: [80, 1.382]}}}`, which
    makes one name for each.

    Raises:
        ValueError: it stands for none; the sentence says why.
    """
    if isinstance(entry, str):
        return [Sampler.read(entry).text]
    if not (isinstance(entry, dict) and len(entry) == 1):
        raise ValueError(f"{entry!r}: write NAME or {{NAME: {{times: trained}}}}")
    ((name, params),) = entry.items()
    if not isinstance(name, str) or not isinstance(params, dict):
        raise ValueError(f"{entry!r}: write NAME or {{NAME: {{times: trained}}}}")
    for key in params:
        if key not in KEYS:
            raise ValueError(f"sampler {name!r}: unknown parameter {key!r}{nearest(key, KEYS)}")
    head = name if params.get("gamma") is None else f"{name}{_number(name, params['gamma'])}"
    if params.get("clip") not in (None, True, False):
        raise ValueError(f"sampler {name!r}: clip is true or false, got {params['clip']!r}")
    head += "-unclipped" if params.get("clip") is False else ""
    return [Sampler.read(f"{head}@{times}").text for times in _times(name, params.get("times"))]


def _times(name: str, value: Any) -> list[str]:
    """What stands after the @ of each name."""
    if value is None or isinstance(value, str):
        if value not in (None, "karras", "trained"):
            raise ValueError(
                f"sampler {name!r}: times is karras, trained, or levels by number of steps such as"
                f" {{2: [80, 1.382]}}, got {value!r}"
            )
        return [value or "karras"]
    lists = {len(value): value} if isinstance(value, list) else value
    if not isinstance(lists, dict) or not lists:
        raise ValueError(f"sampler {name!r}: times {value!r}: write {{2: [80, 1.382]}}")
    texts = []
    for steps, levels in lists.items():
        if isinstance(steps, bool) or not isinstance(levels, list) or len(levels) != steps:
            raise ValueError(
                f"sampler {name!r}: times for {steps} steps are {steps} levels, got {levels!r}"
            )
        texts.append(",".join(_number(name, level) for level in levels))
    return texts


def _number(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"sampler {name!r}: {value!r} is no number")
    return repr(float(value))
