"""Every kind of picture is read right or refused by name, and one rule says which files count."""

import io
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.api import ConfigError, create
from harness.evaluate.sources import open_images
from harness.registry import registry

FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
OPAQUE = np.full((8, 8, 1), 255, np.uint8)
GLASS = np.where(np.arange(64).reshape(8, 8, 1) == 63, 254, OPAQUE).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
INDEX = RNG.integers(0, 4, (8, 8), dtype=np.uint8)
PALETTE = RNG.integers(0, 256, (4, 3), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name, data):
    """A chunk of a PNG."""
    return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)


def raw_png(samples, depth, colour, extra=b""):
    """A PNG written by hand: `samples` are rows of bytes or big-endian words, as the format has."""
    header = (8).to_bytes(4) * 2 + bytes([depth, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row for row in samples)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def words(values):
    return [row.astype(">u2").tobytes() for row in values]


def packed(values, bits):
    """Rows of values of so many bits each."""
    spread = np.unpackbits(values[..., None], axis=2)[..., -bits:]
    return [np.packbits(row.ravel()).tobytes() for row in spread]


def paletted(**options):
    image = Image.fromarray(INDEX, "P")
    image.putpalette(PALETTE.ravel().tolist())
    return saved(image, **options)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(RGB), exif=exif)


def stacked(*parts):
    return np.concatenate([p[..., None] if p.ndim == 2 else p for p in parts], 2)


TWO = GREY >> 6
KEY = chunk(b"tRNS", bytes([0, 1]))  # of a value that may or may not be there
#: file -> the array it is, [8, 8] or [8, 8, 3]
RIGHT = {
    "grey": (saved(Image.fromarray(GREY)), GREY),
    "colour": (saved(Image.fromarray(RGB)), RGB),
    "1 bit": (saved(Image.fromarray(GREY > 127)), np.where(GREY > 127, 255, 0)),
    "2 bits": (raw_png(packed(TWO, 2), 2, 0), TWO * 85),
    "4 bits": (raw_png(packed(GREY >> 4, 4), 4, 0), (GREY >> 4) * 17),
    "16-bit grey": (raw_png(words(DEEP[:, :, 0]), 16, 0), DEEP[:, :, 0] >> 8),
    "16-bit grey of Pillow": (saved(Image.fromarray(DEEP[:, :, 0])), DEEP[:, :, 0] >> 8),
    "16-bit colour": (raw_png(words(DEEP), 16, 2), DEEP >> 8),
    "16-bit grey, opaque": (
        raw_png(words(stacked(DEEP[:, :, 0], np.full((8, 8), 65535))), 16, 4),
        DEEP[:, :, 0] >> 8,
    ),
    "16-bit colour, opaque": (
        raw_png(words(stacked(DEEP, np.full((8, 8), 65535))), 16, 6),
        DEEP >> 8,
    ),
    "grey, opaque": (saved(Image.fromarray(stacked(GREY, OPAQUE), "LA")), GREY),
    "colour, opaque": (saved(Image.fromarray(stacked(RGB, OPAQUE))), RGB),
    "grey, colour key not there": (
        raw_png([r.tobytes() for r in np.maximum(GREY, 2)], 8, 0, KEY),
        np.maximum(GREY, 2),
    ),
    "palette": (paletted(), PALETTE[INDEX]),
    "palette of 2 bits": (paletted(bits=2), PALETTE[INDEX]),
    "palette, opaque": (paletted(transparency=bytes([255] * 4)), PALETTE[INDEX]),
    "palette, key not there": (paletted(transparency=9), PALETTE[INDEX]),
    "orientation": (turned(), RGB),
    "bmp": (saved(Image.fromarray(RGB), "BMP"), RGB),
    "bmp, grey": (saved(Image.fromarray(GREY), "BMP"), GREY),
    "webp": (saved(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "webp, opaque": (saved(Image.fromarray(stacked(RGB, OPAQUE)), "WEBP", lossless=True), RGB),
    "jpeg, grey": (saved(Image.fromarray(GREY * 0 + 77), "JPEG"), GREY * 0 + 77),
    "jpeg": (saved(Image.fromarray(RGB * 0 + 77), "JPEG"), RGB * 0 + 77),
}
#: file -> what the refusal says
REFUSED = {
    "grey, glass": (saved(Image.fromarray(stacked(GREY, GLASS), "LA")), "transparent pixels"),
    "colour, glass": (saved(Image.fromarray(stacked(RGB, GLASS))), "transparent pixels"),
    "webp, glass": (
        saved(Image.fromarray(stacked(RGB, GLASS)), "WEBP", lossless=True),
        "transparent pixels",
    ),
    "palette, glass": (paletted(transparency=bytes([255, 9, 255, 255])), "transparent pixels"),
    "palette, key": (paletted(transparency=1), "transparent pixels"),
    "grey, key": (raw_png([b"\1" * 8] * 8, 8, 0, KEY), "transparent pixels"),
    "16-bit grey, key": (raw_png(words(DEEP[:, :, 0]), 16, 0, KEY), "transparent pixels"),
    "16-bit colour, key": (
        raw_png(words(DEEP), 16, 2, chunk(b"tRNS", bytes(6))),
        "transparent pixels",
    ),
    "16-bit grey, glass": (
        raw_png(words(stacked(DEEP[:, :, 0], DEEP[:, :, 1])), 16, 4),
        "transparent pixels",
    ),
    "cmyk": (saved(Image.fromarray(stacked(RGB, GREY), "CMYK"), "JPEG"), "colour mode CMYK"),
    "tiff": (saved(Image.fromarray(RGB), "TIFF"), "is not a PNG, JPEG, WebP or BMP image"),
    "gif": (saved(Image.fromarray(RGB), "GIF"), "is not a PNG, JPEG, WebP or BMP image"),
    "animated png": (
        saved(
            Image.fromarray(RGB),
            save_all=True,
            append_images=[Image.fromarray(255 - RGB)],
        ),
        "is an animation",
    ),
    "animated webp": (
        saved(
            Image.fromarray(RGB),
            "WEBP",
            save_all=True,
            append_images=[Image.fromarray(255 - RGB)],
        ),
        "is an animation",
    ),
}


def put(folder, where, files):
    """A folder or a zip of these files."""
    if where == "zip":
        path = folder / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    path = folder / "set"
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def drawn(where, path):
    """All images as the data reader gives them, [N, C, H, W]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create("dataset", where, {"path": str(path)}).decode()[0]


def compared(path):
    """All images as `fid` reads them, [N, C, H, W]."""
    return torch.cat(list(open_images(path).batches(2))).numpy()


@pytest.mark.parametrize("where", ["folder", "zip"])
@pytest.mark.parametrize("kind", RIGHT)
def test_both_readers_give_the_known_array(tmp_path, where, kind):
    """Also beside an ordinary 8-bit image of the same shape."""
    content, known = RIGHT[kind]
    known = known[None] if known.ndim == 2 else known.transpose(2, 0, 1)
    ordinary = RIGHT["grey" if len(known) == 1 else "colour"]
    plain = ordinary[1][None] if len(known) == 1 else ordinary[1].transpose(2, 0, 1)
    path = put(tmp_path, where, {"a.png": content, "b.png": ordinary[0]})
    for found in (drawn(where, path), compared(path)):
        assert found.dtype == np.uint8
        assert np.array_equal(found, np.stack([known, plain]))


@pytest.mark.parametrize("where", ["folder", "zip"])
@pytest.mark.parametrize("kind", REFUSED)
def test_both_readers_refuse_by_name(tmp_path, where, kind):
    content, words = REFUSED[kind]
    path = put(tmp_path, where, {"a.png": content, "b.png": RIGHT["colour"][0]})
    for read in (lambda: drawn(where, path), lambda: compared(path)):
        with pytest.raises(ConfigError, match=words) as caught:
            read()
        assert "a.png: " in str(caught.value)


def test_what_was_done_to_pixels_is_noted(tmp_path):
    files = {"a.png": turned(), "b.png": RIGHT["16-bit colour"][0], "c.png": RIGHT["colour"][0]}
    path = put(tmp_path, "folder", files)
    assert open_images(path).notes == [
        f"{path}: 1 of 3 images have an EXIF orientation, which is not applied: pixels are used as"
        " they are stored",
        f"{path}: 1 of 3 images have 16 bits a channel, of which the upper 8 are used",
    ]
    with pytest.warns(UserWarning, match=r"a\.png: has an EXIF orientation, which is not applied"):
        create("dataset", "folder", {"path": str(path)})


def test_grey_beside_colour_is_repeated_by_fid(tmp_path):
    files = {"a.png": RIGHT["16-bit grey, opaque"][0], "b.png": RIGHT["palette"][0]}
    path = put(tmp_path, "zip", files)
    grey, colour = RIGHT["16-bit grey, opaque"][1], RIGHT["palette"][1]
    assert np.array_equal(
        compared(path), np.stack([np.stack([grey] * 3), colour.transpose(2, 0, 1)])
    )
    assert "grey ones are repeated" in open_images(path).notes[0]


PASSED = {
    ".hidden.png": "hidden or a thumbnail",
    "sub/.ipynb_checkpoints/a-checkpoint.png": "hidden or a thumbnail",
    "__MACOSX/._a.png": "hidden or a thumbnail",
    "Thumbs.db": "hidden or a thumbnail",
    "@eaDir/a.png": "hidden or a thumbnail",
    ".DS_Store": "hidden or a thumbnail",
    "notes.txt": "no image",
    "README": "no image",
    "a.npz": "no image",
}


@pytest.mark.parametrize("where", ["folder", "zip"])
def test_other_files_are_passed_over_and_counted(tmp_path, where):
    images = {f"sub/{k}.png": RIGHT["colour"][0] for k in range(3)}
    path = put(tmp_path, where, images | dict.fromkeys(PASSED, RIGHT["grey"][0]))
    source = open_images(path)
    assert source.n == 3
    for why in set(PASSED.values()):
        names = sorted(name for name, reason in PASSED.items() if reason == why)
        assert (
            f"{path}: passed over {len(names)} files (the first is {names[0]}): {why}"
            in source.notes
        )
    assert len(source.notes) == 2
    assert drawn(where, path).shape == (3, 3, 8, 8)
    with pytest.warns(UserWarning, match="passed over 6 files"):
        create("dataset", where, {"path": str(path)})


def test_links_that_lead_nowhere_are_noted(tmp_path):
    path = put(tmp_path, "folder", {f"{k}.png": RIGHT["colour"][0] for k in range(3)})
    os.symlink(tmp_path / "gone.png", path / "3.png")
    os.symlink(path / "0.png", path / "4.png")
    os.symlink(tmp_path, path / "more")
    source = open_images(path)
    assert source.n == 4
    assert source.notes == [
        f"{path}: passed over 3.png: a link that leads nowhere",
        f"{path}: passed over more: a link to a folder, which is not followed",
    ]


@pytest.mark.parametrize("ending", ["gif", "tif", "TIFF", "avif", "ppm"])
def test_images_that_are_not_read_are_not_left_out_silently(tmp_path, ending):
    path = put(tmp_path, "folder", {"a.png": RIGHT["colour"][0], f"b.{ending}": b"x"})
    for read in (lambda: drawn("folder", path), lambda: compared(path)):
        with pytest.raises(ConfigError, match=rf"b\.{ending} is an image of a kind that is not"):
            read()


def frechet(harness, *sides, metric="frechet"):
    flags = ("--extractor", "raw", "--metrics", metric)
    return harness("fid", *(FAULTS / side for side in sides), *flags)


@pytest.mark.parametrize(
    ("sides", "note"),
    [
        (("grey16", "grey8"), "24 of 24 images have 16 bits a channel"),
        (("hidden-folder", "rgb8"), "passed over 6 files (the first is .ipynb_checkpoints/000-"),
    ],
)
def test_equal_pictures_are_at_distance_zero(harness, sides, note):
    code, out, err = frechet(harness, *sides)
    assert code == 0
    assert "Fréchet distance  0\nraw, n=24 against 24" in out
    assert note in err


def test_statistics_with_a_negative_variance_are_refused(harness):
    code, out, err = frechet(harness, "rgb8", "negative-scatter.npz")
    assert (code, out) == (2, "")
    assert "negative-scatter.npz: these are no mean and covariance (a variance is negative" in err


def test_notes_are_of_what_was_asked(harness):
    code, _, err = frechet(harness, "rgb8", "rgb8", metric="kid")
    assert code == 0
    assert "Fréchet" not in err
    code, _, err = frechet(harness, "grey8", "rgb8")
    assert code == 2
    assert "extractor 'raw' cannot compare grey 8x8 with colour 8x8 images" in err


def test_a_score_that_is_no_number_is_told(harness, monkeypatch):
    monkeypatch.setattr(registry.get("metric", "kid"), "compute", lambda *_: float("nan"))
    code, out, err = frechet(harness, "rgb8", "rgb8", metric="kid")
    assert (code, out) == (1, "")
    assert "metric 'kid' gave nan" in err
