"""Consistency trajectory models from the .pt files of their reference code (Kim et al. 2024).

Two layouts: CIFAR-10's is a network of EDM's family (DDPM++) told log(t)/4 and log(s)/4, whose
embedding of s has labels in it; ImageNet's is OpenAI's U-Net told 250 log t and 250 log s, whose
embedding of s has none. Both read s in every block.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from harness.api import (
    ConfigError,
    StudentFormat,
    TrainedStudent,
    create_precond,
    register_student,
)
from students.formats.state_dict import (
    SUFFIXES,
    StateDictParams,
    described,
    open_state_dict,
    reads_s,
)


class CTMParams(StateDictParams):
    """`outer`: the outer form that it was trained with, which the file does not tell."""

    outer: Literal["euler", "variance", "mixed"] = "euler"


@register_student("ctm")
class ConsistencyTrajectoryModel(StudentFormat):
    """A CTM as a state dict of CTM's CIFAR-10 or ImageNet-64 code, e.g. ema_0.999_049000.pt.

    Raises:
        ConfigError: its network is not told where a jump ends.
    """

    Params = CTMParams

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A .pt whose network is told s."""
        return path.is_file() and path.suffix.lower() in SUFFIXES and reads_s(path)

    def load(self, path: Path) -> TrainedStudent:
        """See `StudentFormat.load`."""
        from harness.core.student import Student
        from teachers.edm_format.network import load

        p = self.params
        checkpoint = open_state_dict(path, p)
        if not checkpoint.reads_s:
            raise ConfigError(
                f"{path}: its network is not told where a jump ends, so it is no CTM: a consistency"
                " model is of format cm"
            )
        for note in checkpoint.notes:
            warnings.warn(f"student {self.name!r}: {path}: {note}", stacklevel=2)
        spec = described(checkpoint, self.name, "any", p.sigma_min, p.sigma_max)
        sigma = {name: getattr(spec, name) for name in ("sigma_data", "sigma_min", "sigma_max")}
        precond = create_precond("ctm", outer=p.outer, **sigma)
        return TrainedStudent(spec, Student(load(checkpoint), precond))
