"""Reference statistics: what is in the file, what is refused, what can be imported."""

import numpy as np
import pytest
import torch

from harness.api import ConfigError, create
from harness.evaluate.compare import extract, statistics
from harness.evaluate.moments import frechet
from harness.evaluate.reference import is_statistics, load_reference
from harness.evaluate.sources import open_images


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8))
    return path


@pytest.fixture
def reference(images):
    extractor = create("extractor", "digits-cnn")
    source = open_images(images)
    features = extract(source, extractor, False, 16, "cpu", lambda batches, n, what: batches)
    return statistics(source, features)


def test_statistics_come_back_as_they_were(reference, tmp_path):
    path = reference.save(tmp_path)
    assert path.name.startswith("set-digits-cnn-")
    assert path.name.endswith(f"{reference.key[:12]}.npz")
    assert is_statistics(path)
    back = load_reference(path, create("extractor", "digits-cnn"))
    assert back.meta == reference.meta
    assert torch.equal(back.moments.m2, reference.moments.m2)
    assert frechet(back.moments, reference.moments) < 1e-9


def test_the_key_is_of_the_content_and_not_of_the_container(images, reference):
    array = np.load(images)["arr_0"]
    other = images.with_name("renamed.npz")
    np.savez_compressed(other, array)
    source = open_images(other)
    list(source.batches(7))  # another batch size, too
    assert source.digest == reference.meta["content"]
    array[0, 0, 0] ^= 1
    np.savez(other, array)
    changed = open_images(other)
    list(changed.batches(7))
    assert changed.digest != reference.meta["content"]


def test_statistics_of_another_extractor_or_content_are_refused_with_what_differs(
    reference, tmp_path
):
    path = reference.save(tmp_path)
    with pytest.raises(ConfigError, match=r"extractor is 'digits-cnn@.*'raw' here"):
        load_reference(path, create("extractor", "raw"))
    with pytest.raises(ConfigError, match=r"content is .* there, 'other' here"):
        load_reference(path, create("extractor", "digits-cnn"), content="other")


def test_a_changed_file_is_stale(reference, tmp_path):
    path = reference.save(tmp_path)
    arrays = dict(np.load(path))
    text = bytes(arrays["meta"]).replace(b'"n": 40', b'"n": 41')
    arrays["meta"] = np.frombuffer(text, np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match="changed or is stale"):
        load_reference(path, create("extractor", "digits-cnn"))


def published(path, d=2048, **change):
    """A file as EDM, ADM and clean-fid publish them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, d))
    arrays = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False), **change}
    np.savez(path, **arrays)
    return path


def test_published_statistics_are_imported_once_n_is_said(tmp_path):
    path = published(tmp_path / "cifar10.npz", 16)
    for name in ("inception", "inception-clean"):
        found = load_reference(path, create("extractor", name), n=50)
        assert found.moments.n == 50
        np.testing.assert_allclose(found.moments.covariance, np.load(path)["sigma"], rtol=1e-12)
    with pytest.raises(ConfigError, match="--reference-n"):
        load_reference(path, create("extractor", "inception"))
    with pytest.raises(ConfigError, match="extractor is 'official Inception' there"):
        load_reference(path, create("extractor", "inception-fidhelper"), n=50)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mu": np.zeros(3)}, "do not fit together"),
        ({"sigma": np.full((16, 16), np.nan)}, "not finite"),
        ({"sigma": np.triu(np.ones((16, 16)))}, "not symmetric"),
        ({"mu": np.zeros(16, int)}, "floating"),
        ({"mu": np.array([None] * 16)}, "no readable .npz"),
    ],
)
def test_nonsense_is_refused(tmp_path, change, why):
    path = published(tmp_path / "bad.npz", 16, **change)
    with pytest.raises(ConfigError, match=why):
        load_reference(path, create("extractor", "inception"), n=50)
