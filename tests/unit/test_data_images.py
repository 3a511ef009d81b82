"""Image sets: what they hold, in which order they are drawn, and what they refuse."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from harness.api import create
from harness.data.edm_layout import subset
from harness.errors import ConfigError
from tests.unit.image_files import layout, png, write_folder, write_zip


def make(kind, path, **params):
    return create("dataset", kind, {"path": str(path), **params})


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "set.zip", layout())


def test_zip_and_folder_hold_the_same(tmp_path, archive):
    folder = write_folder(tmp_path / "set", layout())
    sets = [make("zip", archive, labels=True), make("folder", folder, labels=True)]
    for found in sets:
        assert (found.spec.shape, found.spec.classes, found.spec.size) == ((3, 8, 8), 3, 7)
        x, labels = found.draw(5, "reference", torch.arange(7))
        pixels = np.asarray(Image.open(io.BytesIO(png(seed=2)))).transpose(2, 0, 1)
        assert x.dtype == labels.dtype == torch.float32
        assert torch.equal(x[2], torch.from_numpy(pixels.copy()).float() / 127.5 - 1)
        assert labels.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert found.decoded[0].dtype == np.uint8
        items, one_hot = found.items()
        assert np.array_equal(items, x.numpy())
        assert np.array_equal(one_hot, labels.numpy())
    assert sets[0].spec.digest != sets[1].spec.digest


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_what_does_not_fit_into_memory_is_decoded_when_drawn(tmp_path, archive, kind, monkeypatch):
    path = archive if kind == "zip" else write_folder(tmp_path / "set", layout())
    kept, numbers = make(kind, path, labels=True, hflip=True), torch.arange(20)
    expected = kept.draw(1, "x", numbers)
    monkeypatch.setattr("harness.data.edm_layout.free_memory", lambda: 2 * 7 * 3 * 64 - 1)
    drawn = make(kind, path, labels=True, hflip=True)
    for a, b in zip(expected, drawn.draw(1, "x", numbers), strict=True):
        assert torch.equal(a, b)
    assert drawn._decoded is None
    assert kept._decoded is not None


def test_digest_follows_the_content_and_the_choices(tmp_path, archive):
    folder = write_folder(tmp_path / "set", layout())
    base = make("folder", folder).spec.digest
    assert make("folder", folder).spec.digest == base
    assert make("folder", folder, labels=True).spec.digest != base
    assert make("folder", folder, hflip=True).spec.digest != base
    moved = folder.rename(tmp_path / "elsewhere")
    assert make("folder", moved).spec.digest == base
    (moved / "00000/img00000003.png").write_bytes(png(seed=99))
    assert make("folder", moved).spec.digest != base


def test_jpeg_grey_and_hidden_files(tmp_path):
    grey = {"a.jpg": png(mode="L", kind="JPEG"), "b.png": png(mode="L"), ".DS_Store": b"x"}
    found = make("folder", write_folder(tmp_path / "grey", grey))
    assert found.spec.shape == (1, 8, 8)
    assert found.draw(0, "x", torch.arange(2))[0].shape == (2, 1, 8, 8)
    assert found.draw(0, "x", torch.arange(2))[1] is None


def test_label_vectors_are_used_as_they_are(tmp_path):
    files = layout(2)
    names = sorted(files)[:2]
    vectors = {"labels": [[names[0], [0.5, 0.5]], [names[1], [0, 1]]]}
    files["dataset.json"] = json.dumps(vectors).encode()
    found = make("zip", write_zip(tmp_path / "v.zip", files), labels=True)
    assert found.spec.classes == 2
    assert found.draw(0, "reference", torch.arange(2))[1].tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_order_is_a_permutation_per_epoch_and_a_pure_function(archive):
    found = make("zip", archive)
    size = found.spec.size
    everything = found.draw(0, "training data", torch.arange(3 * size))[0]
    again = make("zip", archive).draw(0, "training data", torch.arange(3 * size))[0]
    assert torch.equal(everything, again)
    stored = found.draw(0, "reference", torch.arange(size))[0]

    def order(x):
        return [int((stored == row).flatten(1).all(1).nonzero()[0, 0]) for row in x]

    epochs = [order(part) for part in everything.split(size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    some = torch.tensor([20, 3, 9, 3])
    assert torch.equal(found.draw(0, "training data", some)[0], everything[some])
    assert order(found.draw(1, "training data", torch.arange(size))[0]) != epochs[0]
    assert order(found.draw(0, "calibration", torch.arange(size))[0]) != epochs[0]
    wrapped = found.draw(9, "reference", torch.arange(size, 2 * size))[0]
    assert torch.equal(wrapped, stored)


def test_flips_are_drawn_by_number_and_never_for_the_reference(tmp_path):
    path = write_zip(tmp_path / "one.zip", layout(1, None))
    plain, flipped = make("zip", path), make("zip", path, hflip=True)
    numbers = torch.arange(400)
    x, y = (found.draw(0, "training data", numbers)[0] for found in (plain, flipped))
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert ((y == x).flatten(1).all(1) | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(flipped.draw(0, "training data", numbers[7:9])[0], y[7:9])
    reference = flipped.draw(0, "reference", numbers)[0]
    assert torch.equal(reference, plain.draw(0, "reference", numbers)[0])


def test_max_size_is_edms_subset(archive):
    found = make("zip", archive, max_size=3, labels=True)
    order = np.arange(7)
    np.random.RandomState(0).shuffle(order)
    assert subset(7, 3) == sorted(order[:3].tolist())
    assert (found.spec.size, found.spec.classes) == (3, 3)
    whole = make("zip", archive).draw(0, "reference", torch.arange(7))[0]
    assert torch.equal(found.draw(0, "reference", torch.arange(3))[0], whole[subset(7, 3)])


def relabelled(labels):
    files = layout(2)
    names = sorted(files)[:2]
    pairs = [[name, label] for name, label in zip(names, labels, strict=False)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def labelled_twice():
    files = layout(2)
    name = min(files)
    pairs = [*json.loads(files["dataset.json"])["labels"], [name, 1]]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


BAD = {
    "escape": (layout() | {"../evil.png": png()}, {}, "leads out of it"),
    "absolute": (layout() | {"/etc/evil.png": png()}, {}, "leads out of it"),
    "drive": (layout() | {"C:evil.png": png()}, {}, "leads out of it"),
    "other kind": (
        layout() | {"more.gif": b"GIF89a"},
        {},
        "more.gif is an image of a kind that is",
    ),
    "empty": ({"dataset.json": b"{}"}, {}, "holds no image"),
    "fake": ({"a.png": b"not an image"}, {}, "a.png: is not a PNG, JPEG,"),
    "wide": ({"a.png": b""}, {}, "a.png: is not a PNG, JPEG,"),
    "alpha": (layout(2, None, mode="RGBA"), {}, "has transparent pixels"),
    "no json": ({"a.png": png()}, {"labels": True}, "needs a dataset.json"),
    "null": (layout(2, None), {"labels": True}, "labels: null"),
    "missing label": (relabelled([1]), {"labels": True}, "no label for 00000/img00000001.png"),
    "negative": (relabelled([0, -1]), {"labels": True}, "label -1 of 00000/img00000001.png"),
    "huge": (relabelled([0, 10**9]), {"labels": True}, "is out of range"),
    "text label": (relabelled([0, "cat"]), {"labels": True}, "label cat"),
    "bool label": (relabelled([0, True]), {"labels": True}, "label True"),
    "NaN label": (
        relabelled([[0, 1], [0, float("nan")]]),
        {"labels": True},
        "00001.png is not fin",
    ),
    "label twice": (
        labelled_twice(),
        {"labels": True},
        "gives 00000/img00000000.png a label twice",
    ),
    "ragged": (relabelled([[0, 1], [1]]), {"labels": True}, "of one length"),
    "bad json": (layout() | {"dataset.json": b"{"}, {"labels": True}, "is not {"),
    "odd json": (layout() | {"dataset.json": b"[[[1]]]"}, {"labels": True}, "is not {"),
}


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("case", BAD)
def test_bad_sets_are_refused_when_planned(tmp_path, kind, case):
    files, params, words = BAD[case]
    if kind == "folder" and any(n.startswith(("/", "..", "C:")) for n in files):
        pytest.skip("a folder has no such names")
    path = (write_zip if kind == "zip" else write_folder)(tmp_path / "bad", files)
    with pytest.raises(ConfigError, match=f"(?s)dataset '{kind}': .*") as caught:
        make(kind, path, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_that_are_not_square(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "PNG")
    path = write_zip(tmp_path / "x.zip", {"a.png": file.getvalue()})
    with pytest.raises(ConfigError, match="8x6 pixels; images must be square"):
        make("zip", path)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (png(16), "is 16x16 RGB, the first image is 8x8 RGB"),
        (png(8, "L"), "is 8x8 grey, the first image is 8x8 RGB"),
        (png()[:-40], "damaged"),
        (b"GIF89a", "not a PNG, JPEG, WebP or BMP"),
    ],
)
def test_a_later_image_is_refused_before_anything_is_drawn(tmp_path, second, words):
    found = make("zip", write_zip(tmp_path / "x.zip", {"a.png": png(), "b.png": second}))
    with pytest.raises(ConfigError, match=words) as caught:
        found.draw(0, "training data", torch.arange(1))
    assert "b.png" in str(caught.value)


def test_truncated_and_damaged_zips(tmp_path, archive):
    whole = archive.read_bytes()
    torn = tmp_path / "torn.zip"
    for part in (0, 10, len(whole) // 2, len(whole) - 5):
        torn.write_bytes(whole[:part])
        with pytest.raises(ConfigError, match="is not a whole zip file"):
            make("zip", torn)
    at = whole.index(b"IDAT", whole.index(b"IDAT") + 1) + 8  # pixels of the second image
    torn.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(ConfigError, match=r"img00000001\.png cannot be read"):
        make("zip", torn).draw(0, "x", torch.arange(1))


def test_declared_sizes_are_not_believed_blindly(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", b"\0" * (2**26 + 1))
    with pytest.raises(ConfigError, match="more than an image can have"):
        make("zip", path)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sII5s", 13, b"IHDR", 50_000, 50_000, b"\x08\x02"
    )
    path = write_zip(tmp_path / "wide.zip", {"a.png": header + b"\0" * 4})
    with pytest.raises(ConfigError):
        make("zip", path)


def test_paths_that_are_wrong(tmp_path, archive):
    with pytest.raises(ConfigError, match=r"no such zip; expected are PNG"):
        make("zip", tmp_path / "none.zip")
    with pytest.raises(ConfigError, match="name the dataset 'folder' instead"):
        make("zip", tmp_path)
    with pytest.raises(ConfigError, match="name the dataset 'zip' instead"):
        make("folder", archive)
    with pytest.raises(ConfigError, match="path: is needed"):
        create("dataset", "zip", {})
