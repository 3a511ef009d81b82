"""RGB crops of photographs from Python packages: natural images that need no download.

scikit-learn's two photographs are always available; scikit-image's wheel (optional extra `photos`)
has six more. Two vertical bands of every photograph are held out: draws of the purpose "reference"
are crops of the bands, all others are crops of the rest, and no pixel is in both. So a student that
copies its training crops is not optimal.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from harness.api import ConfigError, Dataset, DatasetSpec, Params, content_digest, register_dataset
from harness.data.images.image_set import scaled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Photograph(NamedTuple):
    """A photograph: its package, file in it, height, width, and digest of the file."""

    package: str
    file: str
    size: tuple[int, int]
    sha256: str


SKLEARN = (
    Photograph(
        "sklearn",
        "datasets/images/china.jpg",
        (427, 640),
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    Photograph(
        "sklearn",
        "datasets/images/flower.jpg",
        (427, 640),
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
)
#: color.png there is a drawn wheel, and motorcycle_right.png the same scene from beside
SKIMAGE = (
    Photograph(
        "skimage",
        "data/astronaut.png",
        (512, 512),
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    Photograph(
        "skimage",
        "data/chelsea.png",
        (300, 451),
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    Photograph(
        "skimage",
        "data/coffee.png",
        (400, 600),
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    Photograph(
        "skimage",
        "data/rocket.jpg",
        (427, 640),
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    Photograph(
        "skimage",
        "data/motorcycle_left.png",
        (500, 741),
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    ),
    Photograph(
        "skimage",
        "data/hubble_deep_field.jpg",
        (872, 1000),
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
)
SETS = {"sklearn": SKLEARN, "all": SKLEARN + SKIMAGE}
MEND = {
    "sklearn": "install scikit-learn 1.4 or later",
    "skimage": "pip install 'precondbench[photos]', or take scikit-learn's two"
    " (in a grid, axes.dataset: [photos])",
}
#: a band is so much of its photograph's width, or a little wider than the largest crop
BAND = 1 / 8
REFERENCE = "reference"


class PhotosParams(Params):
    """`side` of a crop in pixels; `set`: scikit-learn's two photographs, or `all` eight.

    `scales`: factors by which photographs are reduced before cropping (a crop at scale 4 shows four
    times as much). `hflip`: mirror half of all draws. `seed`: determines the held-out bands;
    `references`: number of their crops with which samples are compared.
    """

    side: int = Field(default=16, ge=2, le=128)
    set: Literal["sklearn", "all"] = "sklearn"
    scales: list[int] = Field(default=[1, 2, 4], min_length=1, max_length=8)
    hflip: bool = True
    seed: int = Field(default=0, ge=0)
    references: int = Field(default=5000, ge=2, le=1_000_000)

    @field_validator("scales")
    @classmethod
    def _whole_and_different(cls, scales: list[int]) -> list[int]:
        if len(set(scales)) != len(scales) or not all(1 <= scale <= 16 for scale in scales):
            raise ValueError("must be different whole numbers from 1 to 16")
        return scales


class Region(NamedTuple):
    """A photograph at one scale: pixels, number of rows and columns where crops may begin."""

    pixels: np.ndarray
    rows: int
    columns: np.ndarray


@register_dataset("photos")
class Photos(Dataset):
    """Random RGB crops [3, side, side] of photographs shipped in Python packages; unlimited.

    Every photograph and every scale is drawn equally often.

    Raises:
        ConfigError: the package with the photographs is not installed, or they are too small for
            such crops.
    """

    Params = PhotosParams

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        p = self.params
        self.photographs = SETS[p.set]
        for number, photograph in enumerate(self.photographs):
            _place(photograph)
            for scale, held_out in itertools.product(p.scales, (False, True)):
                self._starts(number, scale, held_out)
        digests = [photograph.sha256 for photograph in self.photographs]
        self.spec = DatasetSpec(
            shape=(3, p.side, p.side),
            digest=content_digest(["photos", digests, p.model_dump()], length=64),
            references=p.references,
        )
        self._regions: dict[bool, list[Region]] = {}

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, None]:
        """See `Dataset.draw`; references are the same for every seed and repeat periodically."""
        import torch

        from harness.core.random import uniform

        held_out = purpose == REFERENCE
        where = sample_index.cpu()
        if held_out:
            seed, where = 0, where % self.params.references
        u = uniform(seed, f"{purpose}: crop", 0, where, 4).numpy()
        x = torch.from_numpy(self.cut(u, held_out=held_out)).to(sample_index.device)
        return scaled(x.float()), None

    def cut(self, u: np.ndarray, *, held_out: bool = False) -> np.ndarray:
        """Crops uint8 [B, 3, side, side] at u [B, 4] in (0, 1): photograph and scale, y, x, flip.

        Raises:
            ConfigError: a photograph does not have the expected digest.
        """
        import numpy as np

        regions, side = self.regions(held_out), self.params.side
        out = np.empty((len(u), 3, side, side), dtype=np.uint8)
        for i, (which, down, across, flip) in enumerate(u):
            region = regions[int(which * len(regions))]
            y = int(down * region.rows)
            x = region.columns[int(across * len(region.columns))]
            crop = region.pixels[y : y + side, x : x + side]
            if self.params.hflip and flip < 0.5:
                crop = crop[:, ::-1]
            out[i] = crop.transpose(2, 0, 1)
        return out

    def regions(self, held_out: bool) -> list[Region]:
        """Allowed origins of held-out crops, or of all others, per photograph and scale."""
        if held_out not in self._regions:
            self._regions[held_out] = [
                self._region(number, scale, held_out)
                for number in range(len(self.photographs))
                for scale in self.params.scales
            ]
        return self._regions[held_out]

    def bands(self, number: int, width: int) -> list[tuple[int, int]]:
        """First and one past the last column of the two held-out bands: one in each half."""
        import numpy as np

        most = max(self.params.scales)
        size = max(round(width * BAND), (self.params.side + 1) * most)  # + 1: blocks are aligned
        u = np.random.default_rng([self.params.seed, number]).random(2)
        starts = [int(k * width // 2 + u[k] * (width // 2 - size + 1)) for k in (0, 1)]
        return [(start, start + size) for start in starts]

    def _region(self, number: int, scale: int, held_out: bool) -> Region:
        rows, columns = self._starts(number, scale, held_out)
        return Region(_reduced(self.photographs[number], scale), rows, columns)

    def _starts(self, number: int, scale: int, held_out: bool) -> tuple[int, np.ndarray]:
        """Number of rows, and columns of the reduced photograph, at which a crop may begin."""
        import numpy as np

        photograph = self.photographs[number]
        height, width = photograph.size
        allowed = np.full(width, not held_out)
        for start, stop in self.bands(number, width):
            allowed[start:stop] = held_out
        span = self.params.side * scale
        first = range(0, width // scale * scale - span + 1, scale)  # in the photograph's own pixels
        columns = [x // scale for x in first if allowed[x : x + span].all()]
        rows = height // scale - self.params.side + 1
        if rows < 1 or not columns:
            raise ConfigError(
                f"dataset 'photos': {Path(photograph.file).name} is too small for crops of {span}"
                f" pixels beside held-out ones (side {self.params.side} at scale {scale}); take a"
                " smaller side or scale"
            )
        return rows, np.array(columns)


def _place(photograph: Photograph) -> Path:
    """Path of the file of a photograph; its package is not imported.

    Raises:
        ConfigError: there is no such file.
    """
    found = find_spec(photograph.package)
    path = Path(found.origin).parent / photograph.file if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"dataset 'photos': {Path(photograph.file).name} is not there:"
            f" {MEND[photograph.package]}"
        )
    return path


@functools.cache
def _decoded(photograph: Photograph) -> np.ndarray:
    """All pixels, uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image

    content = _place(photograph).read_bytes()
    if hashlib.sha256(content).hexdigest() != photograph.sha256:
        raise ConfigError(
            f"dataset 'photos': {photograph.package}'s {Path(photograph.file).name} is not the one"
            f" of this harness: {MEND[photograph.package]}"
        )
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@functools.cache
def _reduced(photograph: Photograph, scale: int) -> np.ndarray:
    """Means of scale x scale blocks, rounded, uint8; what does not fill a block is left out."""
    import numpy as np

    pixels = _decoded(photograph)
    height, width = (size // scale for size in pixels.shape[:2])
    blocks = pixels[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
