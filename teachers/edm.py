"""Published EDM checkpoints as teachers (Karras et al. 2022), read without executing any of them.

The networks are reimplemented in `harness.backbones`; the formats are read in
`teachers.edm_format`. Weights are not part of this repository: the user downloads them.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.api import (
    ConfigError,
    Params,
    Teacher,
    TeacherSpec,
    content_digest,
    located,
    register_teacher,
)
from teachers.edm_format.checkpoint import Checkpoint, file_digest
from teachers.edm_format.convert import convert, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from harness.backbones.unet import UNetBackbone


class EDMParams(Params):
    """`weights` (.pkl as published, or .safetensors) and the noise range to use.

    The range is limited to that of the network. `precision` is that of the teacher's blocks, unless
    `train.precision: bf16` makes all networks of a step bf16; students initialised from the teacher
    are float32 in any case. `sha256`, if given, must be a prefix of the file's digest.
    """

    weights: str = located()
    sha256: str | None = None
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


@register_teacher("edm")
class EDMTeacher(Teacher):
    """A published EDM checkpoint (Karras et al. 2022), .pkl or .safetensors.

    Creating the teacher reads the structure of the file; the weights are read on first use.

    Raises:
        ConfigError: the file is missing (the message says where to get it) or not usable.
    """

    Params = EDMParams
    is_network = True
    is_unet = True

    @staticmethod
    def convert(source: Path, out: Path) -> Path:
        """Convert a published pickle to safetensors, see teachers/edm_format/convert.py."""
        return convert(source, out)

    def __init__(self, params: Any = None) -> None:
        if params is None:
            raise ConfigError(f"teacher {self.name!r}: weights: name the path of a checkpoint file")
        super().__init__(params)
        with self._named():
            self.checkpoint = self._open()
        for note in self.checkpoint.notes:
            warnings.warn(f"teacher {self.name!r}: {self.checkpoint.path}: {note}", stacklevel=2)
        config, digest = self.checkpoint.config, file_digest(self.checkpoint.path)
        if params.sha256 and not digest.startswith(params.sha256.lower()):
            raise ConfigError(
                f"teacher {self.name!r}: {self.checkpoint.path} has sha256 {digest}, the grid"
                f" expects {params.sha256}: it is another file than the one that was meant"
            )
        if reading := self._reading():  # another function: what is measured of it is its own
            digest = content_digest([digest, *reading], length=64)
        lowest, highest = config.inner.range()
        sigma_min, sigma_max = max(params.sigma_min, lowest), min(params.sigma_max, highest)
        if not sigma_min < sigma_max:
            raise ConfigError(
                f"teacher {self.name!r}: sigma_min {params.sigma_min:g} to sigma_max"
                f" {params.sigma_max:g} leaves nothing of the network's own range {lowest:g} to"
                f" {highest:g}"
            )
        self.spec = TeacherSpec(
            shape=(config.img_channels, config.img_resolution, config.img_resolution),
            sigma_data=getattr(config.inner, "sigma_data", 0.5),
            digest=digest,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            classes=config.label_dim,
        )
        self._backbone: UNetBackbone | None = None

    def _open(self) -> Checkpoint:
        """Read the structure of the file, without weights."""
        return open_checkpoint(self.params.weights)

    def _reading(self) -> list[str]:
        """Settings that change the function computed from the file; they enter the digest."""
        return [] if self.params.precision == "fp32" else [self.params.precision]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Prefix errors with the name of the teacher."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"teacher {self.name!r}: {error}") from None

    @property
    def backbone(self) -> UNetBackbone:
        """The teacher's own network, frozen and in eval mode; loaded on first use."""
        if self._backbone is None:
            import torch

            from teachers.edm_format.network import load

            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            with self._named():
                self._backbone = load(self.checkpoint, dtypes[self.params.precision])
        return self._backbone

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """See `Teacher.denoise`.

        Args:
            x: noisy images [B, C, R, R], data in [-1, 1].
            sigma: noise levels, scalar or [B].
            labels: one-hot [B, classes]; None is the unconditional label, all zeros.
            augment_labels: [B, augment_dim]; None means "not augmented".
        """
        import torch

        classes = self.spec.classes
        if labels is not None and classes and labels.shape[-1:] != (classes,):
            raise ConfigError(
                f"teacher {self.name!r}: labels of shape {list(labels.shape)} are not one-hot over"
                f" the teacher's {classes} classes; use a dataset with {classes} classes"
            )
        sigma = torch.as_tensor(sigma, device=x.device)
        return self.backbone.denoise(x, sigma, labels, augment_labels)

    def network(self) -> UNetBackbone:
        """A student's backbone: the teacher's weights, trainable, float32, with a branch for s."""
        import torch

        fresh = copy.deepcopy(self.backbone)
        fresh.dtype = torch.float32
        fresh.net.add_s_embedding()
        return fresh.requires_grad_(True).train()

    def to(self, device: Any) -> EDMTeacher:
        """See `Teacher.to`."""
        self.backbone.to(device)
        return self
