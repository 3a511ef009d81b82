"""The specification of a sampler: its kind and times as one string, such as `gamma0.5@trained`.

Imports no torch, as grids, rows and reports use it; harness/core/sampling.py implements sampling.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal, cast

Kind = Literal["exact", "gamma", "stochastic"]
#: `karras`: n + 1 Karras nodes over the teacher's whole range; `trained`: nodes of the objective's
#: training grid; or a tuple of the n levels at which the student is called, noisiest first
Times = Literal["karras", "trained"] | tuple[float, ...]

TEXT = re.compile(r"(exact|gamma|stochastic)([0-9.e+-]*[0-9])?(-unclipped)?(?:@(.+))?")
FORMS = (
    "write exact, gammaG with 0 < G < 1 (gamma0.5), stochastic or stochastic-unclipped, and after"
    " it nothing, @trained, or the levels of a number of steps (stochastic@80,1.382)"
)


@dataclass(frozen=True)
class Sampler:
    """How a student is sampled from sigma_max to sigma_min: kind of jumps, noise levels, clipping.

    `exact` jumps from level to level (CTM's gamma = 0); `gamma` jumps lower and adds fresh noise up
    to the next level (CTM's stochastic sampler, Kim et al. 2024, algorithm 3); `stochastic` jumps
    to sigma_min each time, clips images to [-1, 1] unless `clip` is false, and adds fresh noise
    (multi-step sampling of consistency models, Song et al. 2023, algorithm 1).
    """

    kind: Kind = "exact"
    times: Times = "karras"
    gamma: float | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        """Validate the combination of fields; `misfit` checks levels against a noise range.

        Raises:
            ValueError: the fields contradict each other, or levels do not decrease.
        """
        if (self.kind == "gamma") != (self.gamma is not None):
            raise ValueError(f"gamma goes with the sampler of that name: {FORMS}")
        if self.gamma is not None and not 0 < self.gamma < 1:
            raise ValueError(
                f"gamma {self.gamma:g} is not between 0 and 1: 0 is sampler exact, and 1 is"
                " stochastic-unclipped"
            )
        if not self.clip and self.kind != "stochastic":
            raise ValueError(f"sampler {self.kind} clips nothing: leave `clip` out")
        if isinstance(self.times, tuple):
            if not self.times:
                raise ValueError("a list of levels needs one for each step")
            if not all(math.isfinite(level) for level in self.times) or any(
                not b < a for a, b in zip(self.times, self.times[1:], strict=False)
            ):
                raise ValueError(f"levels must be numbers that decrease, got {_listed(self.times)}")

    @property
    def text(self) -> str:
        """The name in rows, tables and plots; `read` is the inverse."""
        gamma = "" if self.gamma is None else _number(self.gamma)
        times = "" if self.times == "karras" else "@" + _listed(self.times)
        return f"{self.kind}{gamma}{'' if self.clip else '-unclipped'}{times}"

    @classmethod
    def read(cls, text: str) -> Sampler:
        """Parse the name of a sampler.

        Raises:
            ValueError: it is not valid; the message lists the valid forms.
        """
        match = TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no sampler: {FORMS}")
        kind, gamma, unclipped, times = match.groups()
        try:
            made = cls(cast(Kind, kind), "karras", float(gamma) if gamma else None, not unclipped)
            if times in (None, "karras"):
                return made
            if times == "trained":
                return replace(made, times="trained")
            return replace(made, times=tuple(float(level) for level in times.split(",")))
        except ValueError as error:
            raise ValueError(f"{text!r} is no sampler: {error}") from None

    def serves(self, nfe: int) -> bool:
        """Whether it can sample in `nfe` steps: a list of n levels serves n steps only."""
        return not isinstance(self.times, tuple) or len(self.times) == nfe

    def misfit(self, sigma_min: float, sigma_max: float) -> str:
        """Reason why its levels do not fit the noise range of a teacher; empty if they do."""
        if not isinstance(self.times, tuple):
            return ""
        if not math.isclose(self.times[0], sigma_max, rel_tol=1e-6):
            return (
                f"sampler {self.text!r}: the first level must be the teacher's sigma_max,"
                f" {sigma_max:g}, where samples start"
            )
        if self.times[-1] <= sigma_min:
            return (
                f"sampler {self.text!r}: level {self.times[-1]:g} is not above the teacher's"
                f" sigma_min, {sigma_min:g}, where samples end"
            )
        return ""


def _listed(times: Times) -> str:
    return times if isinstance(times, str) else ",".join(map(_number, times))


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
