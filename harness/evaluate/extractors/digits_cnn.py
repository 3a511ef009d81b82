"""Features of digit images from a small network that is shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.api import register_extractor
from harness.evaluate.network_extractor import NetworkExtractor
from harness.evaluate.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = Path(__file__).parent / "weights" / "digits-cnn.safetensors"
FILE = WeightFile(
    name=SHIPPED.name,
    sha256="d14bbeab65b3c682ed70b5144c9e73ab922b2401d300356ede88327f624ecff9",
    size=398792,
    environment="PRECONDBENCH_DIGITS_CNN",
)


@register_extractor("digits-cnn")
class DigitsFeatures(NetworkExtractor):
    """64 features of a tiny CNN trained on scikit-learn's digits; its weights are shipped."""

    file = FILE
    preprocess = "grey8-area"
    digest = FILE.sha256
    dim = 64

    def ready(self, *, allow_download: bool = False) -> Self:
        """See `Extractor.ready`; the weights are shipped."""
        self._path = FILE.find(str(SHIPPED))
        return self

    def load(self, path: Path) -> nn.Module:
        """See `NetworkExtractor.load`."""
        from safetensors.torch import load_file

        from harness.evaluate.extractors.networks.digits import DigitsCNN

        network = DigitsCNN()
        network.load_state_dict(load_file(path))
        return network.requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `Extractor.maps`: after each pair of layers, at sides 8, 4 and 2."""
        found: list[Tensor] = self.network.maps(images)
        return found

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        import torch

        from harness.evaluate.images import check_images

        check_images(samples, self.name)
        with torch.inference_mode():
            return self.network.embed(samples)
