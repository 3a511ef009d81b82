"""The empirical teacher against its formula written out, and a backbone fitted to images."""

import pytest
import torch

from harness.api import create, create_teacher
from harness.backbones.unet import UNetBackbone
from harness.config.schema import Backbone
from harness.errors import ConfigError
from harness.train.fit import fit, make_backbone


def slow(x, t, items, h):
    """The formula of the module's docstring, one sample at a time."""
    out = []
    for row, level in zip(x, t, strict=True):
        total = h**2 + level**2
        weights = (-(row - items).flatten(1).square().sum(1) / (2 * total)).softmax(0)
        each = items + h**2 / total * (row - items)
        out.append((weights[:, None, None, None] * each).sum(0))
    return torch.stack(out)


@pytest.mark.parametrize("h", [0.0, 0.1])
def test_the_formula(h, monkeypatch):
    teacher = create_teacher("empirical", dataset={"name": "digits"}, bandwidth=h, max_items=200)
    data = teacher.dataset()
    items = torch.from_numpy(data.items()[0])[torch.arange(200) * 1797 // 200].double()
    t = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0], dtype=torch.float64)
    x = items[:5] + t[:, None, None, None] * torch.randn(5, 1, 8, 8, dtype=torch.float64)
    expected = slow(x, t, items, h)
    assert torch.allclose(teacher.denoise(x, t), expected, atol=1e-10)
    monkeypatch.setattr("teachers.empirical.MOST_ENTRIES", 400)  # two rows at a time
    assert torch.allclose(teacher.denoise(x, t), expected, atol=1e-10)
    single = teacher.denoise(x.float(), t[2])
    assert single.dtype == torch.float32
    assert torch.allclose(single, slow(x, t[2].expand(5), items, h).float(), atol=1e-5)
    _, slope = torch.func.jvp(lambda u: teacher.denoise(x, u), (t,), (torch.ones_like(t),))
    step = 1e-6 * t
    rise = (teacher.denoise(x, t + step) - teacher.denoise(x, t - step)) / per(2 * step)
    assert torch.allclose(slope, rise, atol=1e-4, rtol=1e-4)


def per(value):
    return value[:, None, None, None]


def test_labels_choose_among_their_own_items():
    teacher = create_teacher("empirical", dataset={"name": "digits", "params": {"labels": True}})
    assert teacher.spec.classes == 10
    x, labels = teacher.dataset().draw(0, "x", torch.arange(20))
    noisy = x + 30 * torch.randn(x.shape)
    means = teacher.denoise(noisy, torch.tensor(1e4), labels)
    items, every = teacher.dataset().items()
    for mean, label in zip(means, labels, strict=True):
        mine = items[every.argmax(1) == int(label.argmax())].mean(0)
        assert torch.allclose(mean, torch.from_numpy(mine), atol=1e-2)
    unlabelled = teacher.denoise(noisy, torch.tensor(1e4), torch.zeros_like(labels))
    assert torch.equal(unlabelled, teacher.denoise(noisy, torch.tensor(1e4)))


def test_spec_and_refusals():
    teacher = create_teacher("empirical", dataset="digits", bandwidth=0.2)
    items, _ = teacher.dataset().items()
    assert teacher.spec.sigma_data == pytest.approx((items.var(0).mean() + 0.04) ** 0.5, rel=1e-5)
    other = create_teacher("empirical", dataset={"name": "digits"}, sigma_data=0.5)
    assert other.spec.sigma_data == 0.5
    assert other.spec.digest != teacher.spec.digest
    with pytest.raises(ConfigError, match="not a finite set"):
        create_teacher("empirical", dataset={"name": "teacher"})
    with pytest.raises(ConfigError, match="no dataset is called 'digit'"):
        create_teacher("empirical", dataset={"name": "digit"})
    with pytest.raises(ConfigError, match="dataset: is needed"):
        create("teacher", "empirical", {})


def test_a_unet_is_fitted_to_an_image_teacher():
    teacher = create_teacher("empirical", dataset={"name": "digits"}, bandwidth=0.1)
    asked = Backbone(channels=8, fit_steps=30, fit_batch=32, fit_lr=4e-3)
    settings = asked.identity(teacher.spec.shape)
    assert settings["name"] == "unet"
    assert "width" not in settings
    fitted = fit(teacher, teacher.dataset(), settings)
    assert isinstance(fitted, UNetBackbone)
    x = 2 * torch.randn(64, 1, 8, 8) + teacher.dataset().draw(0, "x", torch.arange(64))[0]
    t = torch.full((64,), 2.0)
    exact = teacher.denoise(x, t)
    with torch.no_grad():
        errors = [
            (b.eval().denoise(x, t) - exact).square().mean()
            for b in (make_backbone(teacher, settings), fitted)
        ]
    assert errors[1] < 0.7 * errors[0]
    assert torch.equal(fitted(x, t, t / 2), fitted(x, t))


def test_backbones_that_do_not_fit():
    with pytest.raises(
        ConfigError, match=r"backbone: 'mlp' does not fit samples of shape \[1, 8, 8\]: it takes v"
    ):
        Backbone(name="mlp").identity((1, 8, 8))
    with pytest.raises(ConfigError, match="cannot be halved 2 times; give fewer multipliers"):
        Backbone(multipliers=[1, 2, 2]).identity((1, 14, 14))
    ids = Backbone().identity((2,)), Backbone(channels=16).identity((2,))
    assert ids[0] == ids[1]
