"""PNG and JPEG to uint8, by Pillow; an image that is not like the first is refused."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from harness.api import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CHANNELS = {"L": 1, "RGB": 3}
MOST_PIXELS = 2**24


def read_header(content: bytes, what: str) -> tuple[int, int, int]:
    """Shape (C, H, W) from the first bytes of an image.

    Raises:
        ConfigError: not an image, not square, or neither grey nor RGB.
    """
    return _shape(_open(content, what), what)


def decode(content: bytes, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels, uint8 [C, H, W].

    Raises:
        ConfigError: not a whole image, or not of `shape`.
    """
    import numpy as np

    image = _open(content, what)
    found = _shape(image, what)
    if found != tuple(shape):
        raise ConfigError(
            f"{what}: is {_say(found)}, the first image is {_say(shape)}; all must be alike"
        )
    try:
        pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ConfigError(f"{what}: is damaged ({error}); copy or make it again") from None
    return pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)


def _open(content: bytes, what: str) -> Image:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split("<")[0].strip()
        raise ConfigError(f"{what}: is not a PNG or JPEG image ({reason})") from None


def _shape(image: Image, what: str) -> tuple[int, int, int]:
    width, height = image.size
    if width != height or width * height > MOST_PIXELS:
        raise ConfigError(
            f"{what}: is {width}x{height} pixels; images must be square, at most"
            f" {int(MOST_PIXELS**0.5)} wide"
        )
    if image.mode not in CHANNELS:
        raise ConfigError(
            f"{what}: has colour mode {image.mode}; save it as 8-bit grey (L) or RGB, without alpha"
        )
    return CHANNELS[image.mode], height, width


def _say(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'RGB'}"
