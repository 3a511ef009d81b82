"""Reference statistics: what is in the file, what is refused, what can be imported."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from harness.api import ConfigError, create
from harness.config.matrix import wanted
from harness.evaluate.compare import extract, statistics
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.features import Features
from harness.evaluate.moments import frechet
from harness.evaluate.reference import FORMAT, Reference, is_statistics, load_reference
from harness.evaluate.sources import open_images
from harness.store.records import PluginSpec, Request, RunSpec


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
    with pytest.raises(ConfigError, match=r"does not say of which features .* taken for"):
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


class Shrink:
    """A student that only scales its noise down."""

    def jump(self, x, t, s, labels=None):
        return x / 40


def statistics_of_the_data(data, n, path):
    """A file with the moments of the first n reference samples of a data set of vectors."""
    extractor = create("extractor", "raw")
    features = Features(extractor, keep=False)
    features.add(data.draw(0, "reference", torch.arange(n))[0])
    meta = {"format": FORMAT, "extractor": "raw", "shape": [2], "content": "x", "n": n}
    return Reference(features.moments, meta | {"source": "published.npz"}).save(path)


#: of a cell, all that decides what it owes is its objective
CELL = RunSpec(*[PluginSpec("ctm", 1)] * 4, seed=0, train={}, backbone=None, digests={})


def test_a_grid_compares_with_a_file_of_statistics_in_its_own_column(tmp_path):
    teacher = create("teacher", "gmm")
    file = statistics_of_the_data(teacher.dataset(), 300, tmp_path / "published.npz")
    plain = Request([0], [1], ["frechet", "kid"], ["raw"], samples=300)
    named = Request(
        **vars(plain) | {"references": {"raw": {"file": str(file), "n": 300, "digest": "ab"}}}
    )
    values = {}
    for request in (plain, named):
        accelerator = Accelerator(cpu=True)
        evaluator = Evaluator(teacher, teacher.dataset(), request, accelerator, tmp_path / "r")
        for measure, score in evaluator.measure(Shrink(), wanted(request, CELL)).items():
            values[measure.metric, evaluator.protocol(measure)] = score.value
    here, there = ("raw", 300), ("raw vs published#ab", 300)
    assert values["frechet", there] == pytest.approx(values["frechet", here], rel=1e-9)
    assert values["frechet", here] > 0
    # KID needs the features themselves: it stays with the data, in the column it always had
    assert set(values) == {("frechet", here), ("frechet", there), ("kid", here)}


def test_few_samples_do_not_cut_the_data_into_as_small_portions(tmp_path):
    teacher = create("teacher", "unet")
    for samples, asked, batch in ((16, None, 256), (16, 8, 8), (16, 4000, 1797)):
        request = Request([0], [1], ["frechet"], ["raw"], samples, evaluation_batch=asked)
        data, on_cpu = teacher.dataset(), Accelerator(cpu=True)
        assert Evaluator(teacher, data, request, on_cpu, tmp_path / "r").batch == batch


@pytest.mark.parametrize(
    ("told", "shape", "why"),
    [(200, [2], r"n is 300 there, 200 here"), (None, [3], r"shape is \[2\] there, \[3\] here")],
)
def test_statistics_of_other_data_are_refused_before_sampling(tmp_path, told, shape, why):
    data = create("teacher", "gmm").dataset()
    file = statistics_of_the_data(data, 300, tmp_path / "published.npz")
    with pytest.raises(ConfigError, match=why):
        load_reference(file, create("extractor", "raw"), told, shape=shape)


def test_run_refuses_a_reference_of_another_extractor(grid, harness, tmp_path):
    file = statistics_of_the_data(create("teacher", "gmm").dataset(), 300, tmp_path / "p.npz")
    other = np.load(file)
    arrays = {name: other[name] for name in other.files}
    np.savez(tmp_path / "mu.npz", mu=arrays["mean"], sigma=arrays["m2"] / 299)
    where = f"evaluate.references={{raw: {{file: {tmp_path / 'mu.npz'}, n: 300}}}}"
    code, _, err = harness("run", "--matrix", grid, "--set", where)
    assert code == 2
    assert "evaluate.references.raw" in err
    assert "taken for the official Inception's" in err
    assert "cannot be compared with 'raw'" in err
    assert not (grid.parent / "results" / "runs").exists()
