"""Features for digit images from a network small enough to be shipped, for tests and digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.api import Extractor, register_extractor
from harness.evaluate.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent / "weights" / "digits-cnn.safetensors"
FILE = WeightFile(
    name=SHIPPED.name,
    sha256="d14bbeab65b3c682ed70b5144c9e73ab922b2401d300356ede88327f624ecff9",
    size=398792,
    environment="PRECONDBENCH_DIGITS_CNN",
)


@register_extractor("digits-cnn")
class DigitsFeatures(Extractor):
    """64 features of a tiny CNN trained on scikit-learn's digits; its weights are shipped."""

    preprocess = "grey8-area"
    digest = FILE.sha256
    dim = 64
    images_only = True

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._network: Any = None
        self._device: Any = "cpu"

    def ready(self, *, allow_download: bool = False) -> Self:
        """See `Extractor.ready`."""
        FILE.find(str(SHIPPED))
        return self

    def to(self, device: Any) -> Self:
        """See `Extractor.to`."""
        self._device = device
        if self._network is not None:
            self._network.to(device)
        return self

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        import torch

        from harness.evaluate.images import check_images

        check_images(samples, self.name)
        if self._network is None:
            from safetensors.torch import load_file

            from harness.evaluate.extractors.networks.digits import DigitsCNN

            self._network = DigitsCNN()
            self._network.load_state_dict(load_file(FILE.find(str(SHIPPED))))
            self._network.to(self._device)
        with torch.inference_mode():
            return self._network.embed(samples)
