"""CTM's adversarial terms against numbers that the authors' code gave, in float64.

Of github.com/sony/ctm at 87cca3b (MIT licence; pg_modules follow Projected GAN's):
`F_RandomProj` and `MultiScaleD` with their own option of group norms and singular vectors that have
converged, and `get_GAN_loss`. Weights and features are formulas, in `fill` and `wave`.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.core.projected import Head, Projection, fooling, hinge
from harness.objectives.gan import WEIGHT_LIMITS
from harness.train.step import balance
from tests.unit.recorded import RECORD

with np.load(RECORD / "ctm_gan.npz") as stored:
    CASE = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored}


def fill(parameters):
    """Weights by a formula of their place."""
    for k, weight in enumerate(parameters):
        i = torch.arange(weight.numel(), dtype=torch.float64)
        scale = max(weight.numel() / weight.shape[0], 1) ** -0.5
        with torch.no_grad():
            weight.copy_((scale * (0.7 * i * i + 0.31 * i + k).sin()).reshape(weight.shape))


def wave(shape, k):
    """Features by a formula of their place."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.05 * i * (i % 7) + 0.4 * i + k).cos().reshape(shape)


def features(k):
    return [wave((2, 64, 32, 32), k), wave((2, 64, 16, 16), k + 1)]


def test_mixtures_of_features():
    projection = Projection([3, 4, 5, 6], 2).double()
    fill(projection.parameters())
    maps = [wave((2, c, 16 >> k, 16 >> k), k) for k, c in enumerate([3, 4, 5, 6])]
    for k, found in enumerate(projection(maps)):
        assert torch.allclose(found, CASE[f"mixture{k}"], rtol=1e-9, atol=1e-12)


def test_logits_losses_and_gradients():
    heads = torch.nn.ModuleList([Head(64, 32, 64), Head(64, 16, 64)]).double()
    fill(heads.parameters())

    def logits(maps):
        return torch.cat([head(x) for head, x in zip(heads, maps, strict=True)], 1)

    fake = [x.requires_grad_() for x in features(0)]
    found = logits(fake)
    assert torch.allclose(found, CASE["logits"], rtol=1e-8)
    made = fooling(found)
    assert made.item() == pytest.approx(CASE["generator_loss"].item(), rel=1e-8)
    (slope,) = torch.autograd.grad(made, fake[1:], retain_graph=True)
    expected = CASE["generator_input_gradient"]
    assert float((slope[:, :8] - expected).norm() / expected.norm()) < 1e-8
    loss = hinge(logits(features(5)), logits([x.detach() for x in fake]))
    assert loss.item() == pytest.approx(CASE["discriminator_loss"].item(), rel=1e-8)
    grads = torch.autograd.grad(loss, list(heads.parameters()))
    lengths = torch.stack([grad.norm() for grad in grads])
    assert torch.allclose(lengths, CASE["gradient_norms"], rtol=1e-8)
    assert torch.allclose(grads[-1][:, :32], CASE["gradient_last"], rtol=1e-7, atol=1e-10)


def test_weight_of_the_generator_loss():
    """By the length of gradients at the last layer, between 0.01 and 10."""
    objective = SimpleNamespace(adaptive=False, adaptive_batch=None, weight_limits=WEIGHT_LIMITS)
    machine = SimpleNamespace(device="cpu", num_processes=1)
    for first, own, weight in zip(
        CASE["gradient_first"], CASE["gradient_gan"], CASE["weight"], strict=True
    ):
        lengths = {"ctm": first, "dsm": first, "gan": own}
        found = balance(lengths, SimpleNamespace(objective=objective), machine)
        assert float(found["dsm"]) == 1
        assert found["gan"].item() == pytest.approx(weight.item(), rel=1e-9)
