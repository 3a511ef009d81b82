"""Consistency models from OpenAI's .pt files (Song et al. 2023): one jump, to sigma_min.

f = c_skip x + c_out F with c_skip = sd^2/((t - smin)^2 + sd^2) and c_out = sd (t - smin)/sqrt(t^2 +
sd^2): the preconditioning `edm` with its end at sigma_min. The network is told 250 log t and no s.
"""

from __future__ import annotations

import warnings
from pathlib import Path

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


@register_student("cm")
class ConsistencyModel(StudentFormat):
    """A consistency model as a state dict, e.g. cd_imagenet64_lpips.pt or ct_bedroom256.pt.

    Raises:
        ConfigError: it is not, as far as its file tells: a teacher's looks the same.
    """

    Params = StateDictParams

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A .pt whose network is told no s and whose name does not say that it is a teacher."""
        if not path.is_file() or path.suffix.lower() not in SUFFIXES or reads_s(path):
            return False
        if path.name.startswith("edm_"):
            raise ConfigError(
                f"{path}: its name says that it is a teacher, whose file looks like a consistency"
                " model's: use teacher `openai` for it, or format cm if it is a student"
            )
        return True

    def load(self, path: Path) -> TrainedStudent:
        """See `StudentFormat.load`."""
        from harness.core.student import Student
        from teachers.edm_format.network import load

        p = self.params
        checkpoint = open_state_dict(path, p)
        if checkpoint.reads_s:
            raise ConfigError(f"{path}: its network is told where a jump ends: use format ctm")
        for note in checkpoint.notes:
            warnings.warn(f"student {self.name!r}: {path}: {note}", stacklevel=2)
        spec = described(checkpoint, self.name, "sigma_min", p.sigma_min, p.sigma_max)
        sigma = {name: getattr(spec, name) for name in ("sigma_data", "sigma_min", "sigma_max")}
        precond = create_precond("edm", **sigma)
        return TrainedStudent(spec, Student(load(checkpoint), precond, tells_s=False))
