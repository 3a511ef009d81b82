"""`python -m harness fid`: the whole way, and all that may be wrong with what it is given."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image


def png(seed=0, mode="RGB", side=8):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("PRECONDBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A folder of 12 images, two levels deep."""
    path = tmp_path / "images"
    for k in range(12):
        file = path / f"{k % 2}" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(k))
    return path


@pytest.fixture
def fid(harness):
    return lambda *arguments: harness("fid", *arguments, "--extractor", "digits-cnn")


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_folder_zip_and_npz_of_the_same_images_are_the_same(fid, folder, tmp_path):
    files = sorted(folder.rglob("*.png"))
    archive = zipped(
        tmp_path / "a.zip", {str(f.relative_to(folder)): f.read_bytes() for f in files}
    )
    arrays = tmp_path / "a.npz"
    np.savez(arrays, np.stack([np.asarray(Image.open(f)) for f in files]))
    for other in (folder, archive, arrays):
        code, out, err = fid(folder, other, "--json", "--metrics", "frechet", "kid", "precision")
        assert code == 0, err
        found = json.loads(out)
        assert found["n"] == found["reference_n"] == 12
        scores = {row["metric"]: row for row in found["scores"]}
        assert scores["frechet"]["value"] < 1e-6
        assert scores["frechet"]["name"] == "Fréchet distance"
        assert scores["kid"]["std"] > 0
        assert scores["precision"]["value"] == 1
        assert "rank-deficient" in err


def test_saved_statistics_stand_in_for_the_images(fid, folder, tmp_path):
    code, _, err = fid(folder, "--save", tmp_path)
    assert code == 0, err
    (saved,) = tmp_path.glob("*.npz")
    code, out, err = fid(folder, saved, "--json")
    assert code == 0, err
    assert json.loads(out)["scores"][0]["value"] < 1e-6
    code, _, err = fid(folder, saved, "--metrics", "kid")
    assert code == 2
    assert f"needs the images themselves, but {saved} holds" in err
    code, _, err = fid(saved, folder)
    assert code == 2
    assert "give it second" in err


def test_grey_against_colour_is_noted(fid, folder, tmp_path):
    grey = zipped(tmp_path / "grey.zip", {f"{k}.png": png(k, "L") for k in range(5)})
    code, _, err = fid(grey, folder)
    assert code == 0
    assert "grey images are compared with colour ones" in err


def test_a_zip_of_windows_is_read(fid, folder, tmp_path):
    zipfile_ = zipped(tmp_path / "w.zip", {f"sub\\{k}.png": png(k) for k in range(5)})
    code, _, err = fid(zipfile_, folder)
    assert code == 0, err


def bad_inputs(tmp_path):
    good = {f"{k}.png": png(k) for k in range(4)}
    whole = zipped(tmp_path / "whole.zip", good).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "floats.npz", np.zeros((4, 8, 8, 3)))
    np.savez(tmp_path / "objects.npz", np.array([{}, {}], object))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    return {
        "missing": (tmp_path / "nowhere", "no such folder or file"),
        "empty": (tmp_path / "empty", "holds no image"),
        "one": (zipped(tmp_path / "one.zip", {"a.png": png()}), "holds 1 image; "),
        "truncated zip": (tmp_path / "cut.zip", "is not a whole zip file"),
        "traversal": (zipped(tmp_path / "t.zip", {**good, "../x.png": png()}), "leads out of it"),
        "absolute": (zipped(tmp_path / "r.zip", {**good, "/x.png": png()}), "leads out of it"),
        "backslash": (zipped(tmp_path / "b.zip", {**good, "..\\x.png": png()}), "leads out of it"),
        "no image": (
            zipped(tmp_path / "h.zip", {**good, "z.png": b"<html>"}),
            "z.png: is not a PNG",
        ),
        "sizes": (zipped(tmp_path / "s.zip", {**good, "z.png": png(0, side=9)}), "9x9 but 0.png"),
        "cut image": (
            zipped(tmp_path / "i.zip", {**good, "z.png": png()[:90]}),
            "z.png: is damaged",
        ),
        "truncated npz": (tmp_path / "cut.npz", "no readable .npz"),
        "floats": (tmp_path / "floats.npz", "expected uint8"),
        "objects": (tmp_path / "objects.npz", "no readable .npz"),
        "other arrays": (tmp_path / "other.npz", "holds weights"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "empty",
        "one",
        "truncated zip",
        "traversal",
        "absolute",
        "backslash",
        "no image",
        "sizes",
        "cut image",
        "truncated npz",
        "floats",
        "objects",
        "other arrays",
    ],
)
def test_bad_input_is_one_sentence(fid, folder, tmp_path, case):
    path, message = bad_inputs(tmp_path)[case]
    code, out, err = fid(folder, path)
    assert code == 2
    assert not out
    assert message in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give two sets"),
        (("A",), "compare A with what"),
        (("A", "A", "--batch", "0"), "--batch"),
        (("A", "A", "--weights", "x.pth"), "takes no such parameter"),
        (("A", "A", "--metrics", "alignment"), "compares with a teacher"),
        (("A", "A", "--metrics", "inception-score"), "has no class logits"),
        (("A", "A", "--metrics", "fiddle"), "no metric is called"),
        (("A", "A", "--reference-n", "5"), "--reference-n: it is for statistics"),
        (("A", "--save", "x.txt"), "ending in .npz"),
        (("A", "--save", "/no/such/folder/x.npz"), "there is no folder"),
    ],
)
def test_bad_flags_are_one_sentence(fid, folder, flags, message):
    code, _, err = fid(*(folder if flag == "A" else flag for flag in flags))
    assert code == 2
    assert message.replace("compare A", f"compare {folder}") in err


def test_missing_weights_end_it_before_work(harness, folder):
    code, out, err = harness("fid", folder, folder)
    assert (code, out) == (2, "")
    assert "were not found" in err


def test_a_grid_with_missing_weights_ends_before_training(harness, grid, tmp_path):
    arguments = ["--set", "evaluate.extractors=[inception]", "--set", "axes.teacher=[unet]"]
    code, _, err = harness("run", "--matrix", grid, *arguments)
    assert code == 2
    assert "were not found" in err
    assert not list((tmp_path / "results" / "runs").glob("*/train.jsonl"))


def test_verify_weights(harness):
    code, out, _ = harness("fid", "--verify-weights", "--extractor", "digits-cnn")
    assert code == 0
    assert "sha256 is right" in out
    code, _, err = harness("fid", "--verify-weights")
    assert code == 2
    assert "6726825d" in err
