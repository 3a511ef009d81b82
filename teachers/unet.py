"""U-Nets trained by this harness (`python -m harness teacher train`), some of them shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import ConfigError, Dataset, create, located, register_teacher
from teachers.edm import EDMParams, EDMTeacher

if TYPE_CHECKING:
    from teachers.training.config import TeacherConfig

SHIPPED = Path(__file__).parent / "weights"


class UNetParams(EDMParams):
    """`weights`: a .safetensors file written by `teacher train`, or the name of a shipped one."""

    weights: str = located(default="digits")


@register_teacher("unet")
class UNetTeacher(EDMTeacher):
    """A U-Net trained by this harness: `digits` or `photos16` (shipped), or a file of your own.

    Raises:
        ConfigError: there is neither such a file nor such a shipped teacher, or it is not usable.
    """

    Params = UNetParams

    def __init__(self, params: Any = None) -> None:
        params = params if params is not None else self.Params()
        shipped = SHIPPED / f"{params.weights}.safetensors"
        if not shipped.is_file() and not Path(params.weights).expanduser().exists():
            names = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))
            raise ConfigError(
                f"teacher 'unet': weights: {params.weights}: no such file; make it with `python -m"
                f" harness teacher train`, or name a shipped one ({names})"
            )
        super().__init__(
            params.model_copy(update={"weights": str(shipped)}) if shipped.is_file() else params
        )
        self.params = params

    @staticmethod
    def recipe(path: Path) -> TeacherConfig:
        """Read a training configuration, see teachers/training/config.py."""
        from teachers.training.config import load_config

        return load_config(path)

    @staticmethod
    def train(recipe: TeacherConfig, out: Path, processes: int = 1) -> Path:
        """Train a teacher and write its weights, see teachers/training/train.py."""
        from teachers.training.train import train_teacher

        return train_teacher(recipe, out, processes)

    def dataset(self) -> Dataset:
        """The dataset on which it was trained, as named in its file.

        Raises:
            ConfigError: the file does not name a dataset.
        """
        training = self.checkpoint.training
        if training is None:
            raise ConfigError(
                f"teacher 'unet': {self.checkpoint.path} does not say what it was trained on:"
                " name a dataset in axes.dataset"
            )
        made: Dataset = create(
            "dataset", training["dataset"]["name"], training["dataset"]["params"]
        )
        return made
