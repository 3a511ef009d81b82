"""The samples themselves as features: suitable for vector data, a weak baseline for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Extractor, register_extractor

if TYPE_CHECKING:
    from torch import Tensor


@register_extractor("raw")
class Raw(Extractor):
    """The samples themselves, flattened; pixels 0..255 for images."""

    def __call__(self, samples: Tensor) -> Tensor:
        """See `Extractor.__call__`."""
        return samples.flatten(1).double()
