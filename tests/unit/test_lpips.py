"""LPIPS against the `lpips` package's own forward, and the refusals of its weights."""

import pytest
import torch
from safetensors.torch import save_file

from harness import api
from harness.api import Batch, create, create_teacher
from harness.core.lpips import LPIPS, STAGES
from harness.errors import ConfigError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in the two published layouts: VGG16's keys, and the heads'."""
    folder = tmp_path_factory.mktemp("lpips")
    generator = torch.Generator().manual_seed(0)
    trunk, heads, channels = {}, {}, 3
    for stage, (indices, width) in enumerate(STAGES):
        for index in indices:
            scale = (2 / (9 * channels)) ** 0.5
            kernel = scale * torch.randn(width, channels, 3, 3, generator=generator)
            trunk[f"features.{index}.weight"] = kernel
            trunk[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        heads[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    save_file(trunk, folder / "vgg16.safetensors")
    torch.save(heads, folder / "vgg.pth")
    return {
        "lpips_trunk": str(folder / "vgg16.safetensors"),
        "lpips_heads": str(folder / "vgg.pth"),
    }


def ours(weights, **options):
    return LPIPS(**options).load(weights["lpips_trunk"], weights["lpips_heads"])


def pair(count=2, channels=3, size=32):
    generator = torch.Generator().manual_seed(1)
    return (1.3 * torch.randn(count, channels, size, size, generator=generator) for _ in "ab")


def test_equals_the_package(weights):
    lpips = pytest.importorskip("lpips")
    package = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    mine = ours(weights, pooling="max", resize=None)
    for stage in range(5):
        for index, layer in getattr(package.net, f"slice{stage + 1}").named_children():
            if index in mine.convolutions:
                layer.load_state_dict(mine.convolutions[index].state_dict())
        head = mine.heads[stage].reshape(1, -1, 1, 1)
        package.lins[stage].model[1].weight.data.copy_(head)
    a, b = pair()
    with torch.no_grad():
        expected = package(a, b).flatten()
        assert torch.allclose(mine(a, b), expected, rtol=1e-4)
        big = [torch.nn.functional.interpolate(x, (224, 224), mode="bilinear") for x in (a, b)]
        resized = ours(weights, pooling="max")(a, b)
        assert torch.allclose(resized, package(*big).flatten(), rtol=1e-4)
        assert not torch.allclose(ours(weights)(a, b), resized, rtol=1e-3)  # average pooling


def test_distance_properties(weights):
    mine = ours(weights, resize=None)
    a, b = pair(channels=1)
    a.requires_grad_()
    assert float(mine(a, a.detach()).abs().max()) == 0
    value = mine(a, b)
    assert value.shape == (2,)
    (slope,) = torch.autograd.grad(value.sum(), a)
    assert slope.isfinite().all()
    assert float(slope.abs().max()) > 0
    with torch.no_grad():
        assert torch.allclose(mine(b, a), value, rtol=1e-5)
        grey = mine(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
        assert torch.allclose(grey, value, rtol=1e-5)
    constant = torch.zeros(1, 3, 32, 32, requires_grad=True)  # relu may leave nothing at all
    (slope,) = torch.autograd.grad(mine(constant, b[:1].expand(-1, 3, -1, -1)).sum(), constant)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", ["ctm", "cd"])
def test_objectives_take_it(weights, name, tmp_path):
    objective = create("objective", name, {"distance": "lpips", "nodes": 4, **weights})
    assert len(objective.params.lpips_sha256) == 2
    again = create("objective", name, objective.params.model_dump())
    assert again.params == objective.params
    objective.distance._lpips = ours(weights, resize=None)

    teacher = create_teacher("empirical", dataset={"name": "digits", "params": {"size": 16}})

    class Same:
        def jump(self, x, t, s, labels=None):
            return x

        def denoise(self, x, t, labels=None):
            return x

    x0, _ = teacher.dataset().draw(0, "x", torch.arange(2))
    batch = Batch(x0, None, torch.arange(2), torch.arange(2), 0, 0)
    value = objective.terms(Same(), Same(), teacher, batch)[name]()
    assert value.ndim == 0
    assert float(value) > 0


def test_refusals(weights, tmp_path):
    def refused(words, **params):
        with pytest.raises(ConfigError, match=words) as caught:
            create("objective", "ctm", params)
        assert "\n" not in str(caught.value)

    refused("distance lpips needs lpips_trunk", distance="lpips")
    refused("needs lpips_trunk", distance="lpips", lpips_heads=weights["lpips_heads"])
    refused("no such file", distance="lpips", lpips_trunk="/nope", lpips_heads="/nope")
    refused("not the files", distance="lpips", lpips_sha256=["0", "1"], **weights)
    refused("go with", **weights)
    broken = tmp_path / "broken.pth"
    for content, words in ((b"\x80\x04cos\nsystem\n", "cannot be read"), (None, "lacks tensor")):
        if content is None:
            torch.save({}, broken)
        else:
            broken.write_bytes(content)
        params = {"distance": "lpips", "lpips_trunk": str(broken)}
        params["lpips_heads"] = weights["lpips_heads"]
        objective = api.create("objective", "ctm", params)
        with pytest.raises(ConfigError, match=words):
            objective.distance(*pair(), None, 0.5)
    vectors = create("objective", "ctm", {"distance": "lpips", **weights})
    with pytest.raises(ConfigError, match="grey or RGB images"):
        vectors.distance(torch.zeros(3, 2), torch.zeros(3, 2), None, 0.5)
