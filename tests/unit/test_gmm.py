"""The known-answer teacher: its denoiser is the posterior mean, its ODE is known."""

import math

import pytest
import torch

from harness.api import ConfigError, create_teacher
from harness.core.schedule import karras
from harness.core.solver import heun, solve


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"preset": "random", "dim": 5, "modes": 3, "seed": 4},
        {"means": [[0.0, 1.0], [2.0, -1.0]], "stds": [[0.1, 0.5], [0.3, 0.2]], "weights": [1, 3]},
    ],
)
@pytest.mark.parametrize("sigma", [0.002, 0.3, 5.0, 80.0])
def test_denoiser_is_tweedies_formula(params, sigma):
    """D = x + t^2 grad log p_t(x), p_t written out as a density and differentiated."""
    teacher = create_teacher("gmm", **params)
    x0, _ = teacher.dataset().draw(0, "x", torch.arange(32))
    x = (x0.double() + sigma * torch.randn(x0.shape, dtype=torch.float64)).requires_grad_()
    means, stds, weights = (
        torch.tensor(values, dtype=torch.float64)
        for values in (teacher.means, teacher.stds, teacher.weights)
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights),
        torch.distributions.Independent(
            torch.distributions.Normal(means, (stds**2 + sigma**2).sqrt()), 1
        ),
    )
    (score,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    expected = x + sigma**2 * score
    found = teacher.denoise(x.detach(), torch.tensor(sigma, dtype=torch.float64))
    assert torch.allclose(found, expected, atol=1e-9, rtol=1e-6)


def test_samples_have_the_mixtures_moments_and_never_change():
    teacher = create_teacher("gmm", centre=[0.5, -1.0])
    data = teacher.dataset()
    x, labels = data.draw(3, "p", torch.arange(50_000))
    assert labels is None
    assert torch.allclose(x.mean(0), torch.tensor([0.5, -1.0]), atol=0.01)
    assert float(x.var(0).mean().sqrt()) == pytest.approx(teacher.spec.sigma_data, rel=0.01)
    again, _ = data.draw(3, "p", torch.tensor([49_999, 17]))
    assert torch.equal(again, x[[49_999, 17]])


def test_ode_of_a_gaussian_is_a_scaling():
    sd = 0.5
    teacher = create_teacher("gmm", means=[[0.0, 0.0]], stds=[sd])
    x = 80 * torch.randn(64, 2, dtype=torch.float64)
    end = solve(teacher.denoise, x, karras(17), substeps=64)
    exact = x * math.sqrt((0.002**2 + sd**2) / (80**2 + sd**2))
    assert float((end - exact).abs().max()) < 2e-4


def test_heun_is_second_order_and_takes_times_per_sample():
    teacher = create_teacher("gmm", means=[[0.0]], stds=[0.5])
    x = torch.tensor([[1.5], [1.5]], dtype=torch.float64)

    def error(n):
        times = torch.linspace(1.5, 0.3, n + 1, dtype=torch.float64)
        times = torch.stack([times, times * 1.1], dim=1)
        exact = x * ((times[-1] ** 2 + 0.25) / (times[0] ** 2 + 0.25)).sqrt()[:, None]
        return (heun(teacher.denoise, x, times) - exact).abs()

    ratio = error(20) / error(40)
    assert bool(((ratio > 3.5) & (ratio < 4.6)).all())


def test_wrong_parameters_are_one_sentence():
    for params, words in [
        ({"means": [[0.0], [1.0, 2.0]], "stds": [1.0, 1.0]}, "same length"),
        ({"means": [[0.0]], "stds": [1.0, 2.0]}, "2 entries for 1 means"),
        ({"mode": 3}, "did you mean 'modes'"),
        ({"modes": "many"}, "must be a whole number"),
        ({"dim": 3}, "preset random"),
        ({"means": [[0.0]], "stds": [-1.0]}, "positive"),
    ]:
        with pytest.raises(ConfigError, match=words):
            create_teacher("gmm", **params)
