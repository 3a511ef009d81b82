"""PNG, JPEG, WebP and BMP to uint8, by Pillow: read right, or refused by name.

The rules, the same for training data and for `fid`:

- grey is one channel, 1-bit grey is 0 and 255, palettes are looked up in their colours (RGB);
- of 16 bits the upper eight are used (v // 256), which Pillow itself does to colour;
- an alpha channel, or a colour named as transparent, is left out where every pixel is opaque. An
  image with a transparent pixel is refused: what it shows depends on what lies behind it;
- an orientation in EXIF is not applied: pixels are used as they are stored, as the FID tools do;
- other colour modes (CMYK, 32-bit, float) and animations are refused.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from harness.api import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
#: modes of Pillow that hold pictures with one value a pixel, and with a colour
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
COLOUR = ("P", "PA", "RGB", "RGBA")
#: what is done to some images, of which a user should know
DEEP = "16 bits a channel, of which the upper 8 are used"
TURNED = "an EXIF orientation, which is not applied: pixels are used as they are stored"
ORIENTATION = 0x0112
#: place of the bit depth and of the colour type in a PNG file; the types that are grey
DEPTH_AT, TYPE_AT, GREY_TYPES = 24, 25, (0, 4)


class Header(NamedTuple):
    """Header of an image file: shape (C, H, W), and which of the conversions above apply."""

    shape: tuple[int, int, int]
    traits: frozenset[str]


def read_header(file: IO[bytes], what: str) -> Header:
    """Read the beginning of an image file.

    Raises:
        ConfigError: it is not an image, or of an unsupported kind; the message says why.
    """
    with _told(what):
        start = file.read(TYPE_AT + 1)
        file.seek(0)
        return _header(_open(file, what), start, what)


def decode(content: bytes, what: str) -> tuple[np.ndarray, Header]:
    """The pixels, uint8 [C, H, W], and the header.

    Raises:
        ConfigError: see `read_header`; or the image is damaged, or has transparent pixels.
    """
    with _told(what):
        image = _open(io.BytesIO(content), what)
        header = _header(image, content, what)
        pixels = _pixels(image, DEEP in header.traits, what)
    return pixels[:, :, : header.shape[0]].transpose(2, 0, 1), header


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn any exception of a decoder into a `ConfigError` that names the file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: is damaged ({error}); copy or make it again") from None


def _open(file: IO[bytes], what: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).split("<")[0].strip()
        raise ConfigError(
            f"{what}: is not a PNG, JPEG, WebP or BMP image ({reason}); remove or replace it"
        ) from None


def _header(image: Image, start: bytes, what: str) -> Header:
    """What an opened image is; `start` is the beginning of its file."""
    grey, traits = image.mode in GREY, set()
    if image.format == "PNG":
        grey = start[TYPE_AT] in GREY_TYPES  # Pillow opens 16-bit grey with alpha as colour
        if start[DEPTH_AT] == 16:
            traits.add(DEEP)
    elif image.mode.startswith("I"):
        raise _refused(what, image)
    if image.mode not in GREY + COLOUR:
        raise _refused(what, image)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a JPEG with a preview
        raise ConfigError(f"{what}: is an animation; give its pictures one by one")
    if image.info.get("exif") and image.getexif().get(ORIENTATION, 1) != 1:
        traits.add(TURNED)
    width, height = image.size
    return Header((1 if grey else 3, height, width), frozenset(traits))


def _pixels(image: Image, deep: bool, what: str) -> np.ndarray:
    """uint8 [H, W, channels], of which the first are those of the header."""
    import numpy as np

    if image.mode.startswith("I"):
        if "transparency" in image.info:
            raise _see_through(what)
        return (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[:, :, None]
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        # a transparent colour of 16 bits cannot be found in the upper eight
        if (rgba[:, :, 3] != 255).any() or (deep and "transparency" in image.info):
            raise _see_through(what)
        return rgba
    plain = image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))
    pixels = np.asarray(plain)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _refused(what: str, image: Image) -> ConfigError:
    return ConfigError(f"{what}: has colour mode {image.mode}; save it as 8-bit grey (L) or RGB")


def _see_through(what: str) -> ConfigError:
    return ConfigError(
        f"{what}: has transparent pixels, whose colour depends on what lies behind them; flatten it"
        " onto a background and save it as grey (L) or RGB"
    )
