"""The teacher `patches`: its denoiser is the posterior mean of its own data."""

import numpy as np
import pytest
import torch

from harness.api import ConfigError, create_teacher
from harness.core.schedule import karras
from harness.core.solver import solve

SMALL = {"side": 3, "components": 3, "crops": 400, "floor": 1e-3}


def per(value):
    return value[:, None]


def mixture(teacher, sigma):
    """torch's own distribution of x_t."""
    weights, means, covariances = (torch.from_numpy(v) for v in teacher.fit)
    noisy = covariances + sigma**2 * torch.eye(means.shape[1], dtype=torch.float64)
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights),
        torch.distributions.MultivariateNormal(means, noisy),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [0.002, 0.3, 5.0, 80.0])
def test_denoiser_is_tweedies_formula(channels, sigma):
    """D = x + t^2 grad log p_t(x), p_t by torch.distributions and differentiated."""
    teacher = create_teacher("patches", channels=channels, **SMALL)
    x0, _ = teacher.dataset().draw(0, "x", torch.arange(32))
    x = (x0.double() + sigma * torch.randn(x0.shape, dtype=torch.float64)).requires_grad_()
    (score,) = torch.autograd.grad(mixture(teacher, sigma).log_prob(x).sum(), x)
    found = teacher.denoise(x.detach(), torch.tensor(sigma, dtype=torch.float64))
    assert torch.allclose(found, x + sigma**2 * score, atol=1e-8, rtol=1e-6)
    single = teacher.denoise(x.detach().float(), torch.tensor(sigma))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), found, atol=2e-4)


def test_denoiser_is_the_mean_of_what_the_noise_hides():
    """Brute force: the average of 200,000 samples, weighted by how likely each makes x."""
    teacher = create_teacher("patches", side=2, channels=1, components=3, crops=400)
    x0, _ = teacher.dataset().draw(0, "x", torch.arange(200_000))
    x0, t = x0.double(), 0.5
    x = x0[:4] + t * torch.randn(4, 4, dtype=torch.float64)
    weights = (-(torch.cdist(x, x0) ** 2) / (2 * t * t)).softmax(1)
    assert torch.allclose(weights @ x0, teacher.denoise(x, t), atol=0.01)


def test_rows_and_levels_are_apart_and_both_forms_agree(monkeypatch):
    vector, image = (create_teacher("patches", form=form, **SMALL) for form in ("vector", "image"))
    assert (vector.spec.shape, image.spec.shape) == ((27,), (3, 3, 3))
    assert vector.spec.digest != image.spec.digest
    t = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0], dtype=torch.float64)
    x0, labels = image.dataset().draw(1, "x", torch.arange(5))
    assert labels is None
    assert torch.equal(vector.dataset().draw(1, "x", torch.arange(5))[0], x0.flatten(1))
    x = x0.double() + t[:, None, None, None] * torch.randn(x0.shape, dtype=torch.float64)
    each = torch.stack([image.denoise(x[k : k + 1], t[k])[0] for k in range(5)])
    assert torch.allclose(image.denoise(x, t), each, atol=1e-10)
    assert torch.allclose(vector.denoise(x.flatten(1), t), each.flatten(1), atol=1e-10)
    monkeypatch.setattr("teachers.patches.MOST_ENTRIES", 200)  # two rows at a time
    assert torch.allclose(image.denoise(x, t), each, atol=1e-10)
    _, slope = torch.func.jvp(lambda u: image.denoise(x, u), (t,), (torch.ones_like(t),))
    rise = image.denoise(x, t * (1 + 1e-6)) - image.denoise(x, t * (1 - 1e-6))
    assert torch.allclose(slope.flatten(1) * per(2e-6 * t), rise.flatten(1), atol=1e-8, rtol=1e-3)


def test_samples_have_the_moments_of_the_crops_and_never_change():
    teacher = create_teacher("patches", **SMALL)
    data = teacher.dataset()
    x, _ = data.draw(3, "p", torch.arange(40_000))
    assert torch.allclose(x.mean(0), torch.from_numpy(teacher.crops.mean(0)).float(), atol=0.02)
    assert float(x.var(0).mean().sqrt()) == pytest.approx(teacher.spec.sigma_data, rel=0.01)
    expected = np.cov(teacher.crops.T, bias=True) + 1e-3 * np.eye(27)
    assert np.allclose(np.cov(x.double().numpy().T), expected, atol=0.03)
    again, _ = data.draw(3, "p", torch.tensor([39_999, 17]))
    assert torch.allclose(again, x[[39_999, 17]], atol=1e-6, rtol=0)


def test_one_gaussian_moves_along_its_own_directions():
    """Its ODE is known: every principal coordinate is scaled by r(s)/r(t), r^2 = t^2 + l."""
    teacher = create_teacher("patches", **{**SMALL, "components": 1})
    _, means, variances, vectors = teacher.constants(torch.float64, torch.device("cpu"))
    x = 80 * torch.randn(16, 27, dtype=torch.float64)
    scale = ((0.002**2 + variances[0]) / (80**2 + variances[0])).sqrt()
    exact = means + ((x - means) @ vectors[0] * scale) @ vectors[0].T
    end = solve(teacher.denoise, x, karras(17), substeps=64)
    assert float((end - exact).abs().max()) < 1e-3


def test_the_shipped_fit_is_of_these_crops_and_reproduces_what_was_measured():
    """EM keeps the moments of its data, so a file of other crops would be found out."""
    teacher = create_teacher("patches")
    weights, means, covariances = teacher.fit
    mean = weights @ means
    assert np.allclose(mean, teacher.crops.mean(0), atol=1e-5)
    apart = means - mean
    whole = np.einsum("k,kij->ij", weights, covariances) + (weights * apart.T) @ apart
    expected = np.cov(teacher.crops.T, bias=True) + 1e-4 * np.eye(192)
    assert np.allclose(whole, expected, atol=1e-5)
    assert teacher.spec.sigma_data == pytest.approx(np.sqrt(np.trace(whole) / 192), rel=1e-6)
    largest = np.linalg.eigvalsh(whole)[::-1]
    assert teacher.spec.sigma_data == pytest.approx(0.670, abs=0.001)
    assert np.sqrt((mean**2).mean()) == pytest.approx(0.192, abs=0.001)
    assert largest[:2] == pytest.approx([72.4, 7.51], rel=0.01)
    assert np.median(largest) == pytest.approx(0.0021, abs=1e-4)


def test_wrong_parameters_are_one_sentence():
    for params, words in [
        ({"side": 1}, "side"),
        ({"side": 40}, "side"),
        ({"channels": 2}, "channels"),
        ({"components": 0}, "components"),
        ({"components": 20, "crops": 100}, "20 components need 200"),
        ({"form": "grid"}, "form"),
        ({"floor": 0}, "floor"),
    ]:
        with pytest.raises(ConfigError, match=words):
            create_teacher("patches", **params)
