"""Consistency models in EDM's pickles: ECT's snapshots (Geng et al. 2024), and iCT-like ones.

f has the coefficients of consistency models with sigma_min = 0.003, in evaluation as ECT's own code
has them. Nothing in the pickle is run: its loss holds a bound method, which is read as a name.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from pydantic import Field

from harness.api import Params, StudentFormat, TrainedStudent, create_precond, register_student
from students.formats.state_dict import described
from teachers.edm_format.unpickle import STUDENTS, class_of, read_pickle


class ECTParams(Params):
    """`sigma_min` by default as the file records it, 0.003 of ECT; `sigma_max` of its training."""

    sigma_min: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    sigma_max: float = Field(default=80.0, gt=0, allow_inf_nan=False)


@register_student("ect")
class EasyConsistencyModel(StudentFormat):
    """A consistency model as a pickle of EDM's kind, e.g. network-snapshot-latest.pkl of ECT.

    Raises:
        ConfigError: the file is hostile, damaged, or holds a teacher.
    """

    Params = ECTParams

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A pickle whose network is of a consistency model's class."""
        return path.is_file() and path.suffix.lower() == ".pkl" and class_of(path) in STUDENTS

    def load(self, path: Path) -> TrainedStudent:
        """See `StudentFormat.load`."""
        from harness.core.student import Student
        from teachers.edm_format.network import load

        checkpoint = read_pickle(path, dict.fromkeys((*STUDENTS, "EDMPrecond"), "EDMPrecond"))
        for note in checkpoint.notes:
            warnings.warn(f"student {self.name!r}: {path}: {note}", stacklevel=2)
        recorded = checkpoint.config.inner.sigma_min or 0.002
        sigma_min = self.params.sigma_min or recorded
        spec = described(checkpoint, self.name, "sigma_min", sigma_min, self.params.sigma_max)
        sigma = {name: getattr(spec, name) for name in ("sigma_data", "sigma_min", "sigma_max")}
        precond = create_precond("edm", **sigma)
        return TrainedStudent(spec, Student(load(checkpoint), precond, tells_s=False))
