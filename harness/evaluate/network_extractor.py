"""Base class of extractors that run a network with weights from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.api import Extractor
from harness.evaluate.weights import WeightFile

if TYPE_CHECKING:
    from torch import nn


class NetworkExtractor(Extractor):
    """Features of images from a network that is loaded on first use.

    A subclass defines `file`, the weights file it needs, and `load`. If it has a parameter
    `weights`, that is the user's path to the file.
    """

    file: ClassVar[WeightFile]
    images_only = True

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._network: nn.Module | None = None
        self._path: Path | None = None
        self._device: Any = "cpu"

    def load(self, path: Path) -> nn.Module:
        """Build the network with the weights of a file whose hash has been checked."""
        raise self.lacks("load(self, path)")

    def ready(self, *, allow_download: bool = False) -> Self:
        """See `Extractor.ready`."""
        chosen = getattr(self.params, "weights", None)
        self._path = self.file.find(chosen, allow_download=allow_download)
        return self

    def to(self, device: Any) -> Self:
        """See `Extractor.to`."""
        self._device = device
        if self._network is not None:
            self._network.to(device)
        return self

    @property
    def network(self) -> Any:
        """The network, loaded on first use."""
        if self._network is None:
            if self._path is None:
                self.ready()
            assert self._path is not None
            self._network = self.load(self._path).to(self._device)
        return self._network
