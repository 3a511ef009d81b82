"""scikit-learn's handwritten digits: 1797 real grey images that need no download.

Source: E. Alpaydin and C. Kaynak 1998, "Optical recognition of handwritten digits" (UCI), the test
part, as `sklearn.datasets.load_digits` carries it: 8x8 pixels of 0..16.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.api import ConfigError, DatasetSpec, Params, content_digest, register_dataset
from harness.data.images.image_set import ImageSet

if TYPE_CHECKING:
    import numpy as np

SIZE, CLASSES = 1797, 10
#: of the pixels as bytes 0..16 followed by the labels as bytes; pinned, so planning reads nothing
DIGEST = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


class DigitsParams(Params):
    """`size` 16 enlarges the 8x8 originals with Pillow's bicubic filter; there is no `hflip`."""

    size: Literal[8, 16] = 8
    labels: bool = False


@register_dataset("digits")
class Digits(ImageSet):
    """scikit-learn's 1797 handwritten digits, grey, [1, size, size]; needs no download."""

    Params = DigitsParams

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        p = self.params
        self.spec = DatasetSpec(
            shape=(1, p.size, p.size),
            digest=content_digest([DIGEST, p.model_dump()], length=64),
            classes=CLASSES if p.labels else 0,
            size=SIZE,
        )

    def decode(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ImageSet.decode`."""
        import numpy as np

        table = np.array([line.split(",") for line in _lines()], dtype=np.uint8)
        raw, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
        if hashlib.sha256(raw.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() != DIGEST:
            raise ConfigError(
                "dataset 'digits': scikit-learn's digits are not the ones of this harness;"
                " install scikit-learn 1.4 or later"
            )
        pixels = np.rint(raw * (255 / 16)).astype(np.uint8)
        if self.params.size != 8:
            pixels = np.stack([_enlarged(image, self.params.size) for image in pixels])
        return pixels[:, None], labels if self.params.labels else None


def _lines() -> list[str]:
    """The file inside scikit-learn, 64 pixels and the class a line; importing it takes seconds.

    Raises:
        ConfigError: there is no such file.
    """
    found = find_spec("sklearn")
    place = Path(found.origin).parent if found and found.origin else Path()
    try:
        return (
            gzip.decompress((place / "datasets/data/digits.csv.gz").read_bytes()).decode().split()
        )
    except OSError:
        raise ConfigError(
            "dataset 'digits': scikit-learn 1.4 or later is not installed: it holds the images"
        ) from None


def _enlarged(image: np.ndarray, size: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
