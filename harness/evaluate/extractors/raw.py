"""The samples themselves as features: right for vector data, a weak baseline for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Extractor, register_extractor

if TYPE_CHECKING:
    from torch import Tensor


@register_extractor("raw")
class Raw(Extractor):
    """Coordinates, flattened; of images the pixels, 0..255."""

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        return samples.flatten(1).double()
