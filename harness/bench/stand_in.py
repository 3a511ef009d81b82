"""Networks with random weights in place of a teacher, since costs do not depend on weights.

A machine can thus be benchmarked before a checkpoint is downloaded: `bench --network cifar10`. The
teacher is registered for that command only.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from harness.api import (
    Dataset,
    DatasetSpec,
    Params,
    Teacher,
    TeacherSpec,
    content_digest,
    register_teacher,
)
from harness.data.images.image_set import ImageSet

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from harness.backbones.unet import UNetBackbone

NETWORKS: dict[str, dict[str, Any]] = {
    # a DDPM++ of 1.2 million parameters, for a CPU
    "small": {
        "side": 16,
        "model_channels": 32,
        "channel_mult": (1, 2, 2),
        "num_blocks": 1,
        "attn_resolutions": (),
        "dropout": 0.0,
    },
    # EDM's DDPM++ for CIFAR-10: 55.7 million
    "cifar10": {
        "side": 32,
        "model_channels": 128,
        "channel_mult": (2, 2, 2),
        "num_blocks": 4,
        "attn_resolutions": (16,),
        "dropout": 0.13,
    },
    # EDM's ADM for ImageNet-64: 296 million
    "imagenet64": {
        "side": 64,
        "label_dim": 1000,
        "model_channels": 192,
        "channel_mult": (1, 2, 3, 4),
        "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
        "dropout": 0.10,
    },
}
CHANNELS, SIGMA_DATA, IMAGES = 3, 0.5, 4096


class StandInParams(Params):
    """`network`: one of `NETWORKS`."""

    network: Literal["small", "cifar10", "imagenet64"] = "small"


@register_teacher("stand-in")
class StandIn(Teacher):
    """A frozen network of a published architecture with random weights."""

    Params = StandInParams
    is_network = True
    is_unet = True

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        network = NETWORKS[self.params.network]
        self.spec = TeacherSpec(
            shape=(CHANNELS, network["side"], network["side"]),
            sigma_data=SIGMA_DATA,
            digest=content_digest(["stand-in", self.params.network, network]),
            classes=network.get("label_dim", 0),
        )
        self._backbone: UNetBackbone | None = None

    @property
    def backbone(self) -> UNetBackbone:
        """The network, made on first use, the same every time."""
        if self._backbone is None:
            import torch

            from harness.backbones.adm import DhariwalUNet
            from harness.backbones.inner import EDM
            from harness.backbones.song import SongUNet
            from harness.backbones.unet import UNetBackbone

            kept = dict(NETWORKS[self.params.network])
            make = DhariwalUNet if kept.get("label_dim") else SongUNet
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = make(kept.pop("side"), CHANNELS, CHANNELS, **kept)
            self._backbone = UNetBackbone(net, EDM(sigma_data=SIGMA_DATA), CHANNELS)
            self._backbone.requires_grad_(False).eval()
        return self._backbone

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`."""
        import torch

        return self.backbone.denoise(x, torch.as_tensor(sigma, device=x.device), labels)

    def network(self) -> UNetBackbone:
        """See `Teacher.network`."""
        fresh = copy.deepcopy(self.backbone)
        fresh.net.add_s_embedding()
        return fresh.requires_grad_(True).train()

    def dataset(self) -> Dataset:
        """Images of noise."""
        return NoiseImages(self.spec)

    def to(self, device: Any) -> StandIn:
        """See `Teacher.to`."""
        self.backbone.to(device)
        return self


class NoiseImages(ImageSet):
    """As many random images as an epoch of a bench needs, of the shape that is asked for."""

    name = "teacher"

    def __init__(self, like: TeacherSpec) -> None:
        super().__init__()
        self.spec = DatasetSpec(
            shape=like.shape,
            digest=content_digest(["noise images", like.shape, like.classes]),
            classes=like.classes,
            size=IMAGES,
        )

    def decode(self) -> tuple[ndarray, ndarray | None]:
        """See `ImageSet.decode`."""
        import numpy as np

        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (IMAGES, *self.spec.shape), dtype=np.uint8)
        classes = self.spec.classes
        return pixels, draw.integers(0, classes, IMAGES) if classes else None
