"""Crops of photographs: what is held out, which draw is what, and what is missing."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from harness.api import create
from harness.data import photos
from harness.errors import ConfigError
from tests.conftest import ROOT


def make(**params):
    return create("dataset", "photos", params)


def test_draws_are_functions_of_their_numbers():
    data = make(side=8)
    assert (data.spec.shape, data.spec.size, data.spec.references) == ((3, 8, 8), None, 5000)
    x, labels = data.draw(0, "training data", torch.arange(64))
    assert labels is None
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (64, 3, 8, 8))
    assert float(x.abs().max()) <= 1
    assert torch.equal(data.draw(0, "training data", torch.tensor([63, 5]))[0], x[[63, 5]])
    assert not torch.equal(data.draw(1, "training data", torch.arange(64))[0], x)
    assert not torch.equal(data.draw(0, "other", torch.arange(64))[0], x)


def test_references_are_one_list_for_every_seed():
    data = make(side=8, references=20)
    x, _ = data.draw(0, "reference", torch.arange(40))
    assert torch.equal(x[:20], x[20:])
    assert torch.equal(data.draw(7, "reference", torch.arange(40))[0], x)


def covered(data, held_out):
    """Pixels of each photograph that some crop at some scale shows, bool [H, W]."""
    side, scales, found = data.params.side, data.params.scales, []
    regions = data.regions(held_out)
    for number, photograph in enumerate(data.photographs):
        seen = np.zeros(photograph.size, dtype=bool)
        assert photos._decoded(photograph).shape == (*photograph.size, 3)
        mine = regions[number * len(scales) : (number + 1) * len(scales)]
        for scale, region in zip(scales, mine, strict=True):
            assert region.pixels.shape[:2] == tuple(size // scale for size in seen.shape)
            assert region.rows + side - 1 == region.pixels.shape[0]
            for x in region.columns:
                seen[: (region.rows + side - 1) * scale, x * scale : (x + side) * scale] = True
        found.append(seen)
    return found


@pytest.mark.parametrize(
    "params",
    [{}, {"seed": 3}, {"side": 8, "scales": [1]}, {"side": 32, "scales": [4, 3]}],
)
def test_training_and_reference_crops_share_no_pixel(params):
    data = make(**params)
    for trained, held_out in zip(covered(data, False), covered(data, True), strict=True):
        assert not (trained & held_out).any()
        assert 0.1 < held_out.mean() < 0.5
        assert trained.mean() > 0.3


def test_a_crop_is_what_its_region_shows():
    data = make(side=4, scales=[2], hflip=False)
    u = np.array([[0.7, 0.5, 0.25, 0.1]])  # the second photograph
    region = data.regions(False)[1]
    y, x = int(0.5 * region.rows), region.columns[int(0.25 * len(region.columns))]
    pixels = photos._decoded(photos.SKLEARN[1]).astype(float)
    block = pixels[2 * y : 2 * y + 8, 2 * x : 2 * x + 8].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.array_equal(data.cut(u)[0], np.rint(block).astype(np.uint8).transpose(2, 0, 1))
    mirrored = make(side=4, scales=[2]).cut(u)
    assert np.array_equal(mirrored[0], data.cut(u)[0][:, :, ::-1])


def test_every_photograph_and_scale_counts_alike():
    data = make(side=4)
    assert len(data.regions(False)) == 6
    x, _ = data.draw(0, "training data", torch.arange(4000))
    by_region = [
        data.cut(np.concatenate([np.full((500, 1), (k + 0.5) / 6), np.random.rand(500, 3)], 1))
        for k in range(6)
    ]
    expected = np.mean([part.mean() for part in by_region]) / 127.5 - 1
    assert float(x.mean()) == pytest.approx(expected, abs=0.05)


@pytest.mark.skipif(find_spec("skimage") is None, reason="needs precondbench[photos]")
def test_all_photographs_are_those_of_the_wheel():
    data = make(set="all")
    assert len(data.regions(True)) == 24
    assert data.draw(0, "reference", torch.arange(8))[0].shape == (8, 3, 16, 16)


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"china.jpg is not there: install scikit-learn"):
        make()
    missing = photos.Photograph("skimage", "data/coffee.png", (400, 600), "0" * 64)
    monkeypatch.setitem(photos.SETS, "sklearn", (missing,))
    with pytest.raises(ConfigError, match=r"pip install 'precondbench\[photos\]'"):
        make()


def test_another_photograph_is_refused(monkeypatch):
    other = photos.SKLEARN[0]._replace(sha256="0" * 64)
    monkeypatch.setitem(photos.SETS, "sklearn", (other,))
    data = make()
    with pytest.raises(ConfigError, match=r"china.jpg is not the one of this harness"):
        data.draw(0, "x", torch.arange(1))


def test_wrong_parameters_are_one_sentence():
    for params, words in [
        ({"side": 1}, "side"),
        ({"scales": []}, "scales"),
        ({"scales": [0]}, "whole numbers from 1 to 16"),
        ({"scales": [2, 2]}, "different whole numbers"),
        ({"set": "imagenet"}, "set"),
        ({"references": 1}, "references"),
    ]:
        with pytest.raises(ConfigError, match=words):
            make(**params)
    for large in ({"side": 64, "scales": [8]}, {"side": 100, "scales": [1, 4]}):
        with pytest.raises(ConfigError, match=r"china.jpg.*smaller side or scale"):
            make(**large)


def test_planning_imports_no_torch():
    code = (
        "import sys; from harness.api import create, create_teacher as t\n"
        "create('dataset', 'photos', {}); t('patches', side=4)\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
