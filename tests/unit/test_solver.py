"""Solvers of the teacher's ODE: what they cost, how fast they converge, and that they are named."""

import math

import pytest
import torch

from harness.api import create, create_teacher
from harness.config.plugins import plugin_spec
from harness.config.schema import PluginRef
from harness.core.schedule import karras
from harness.core.solver import SOLVERS, solve
from harness.objectives.distances import SolverName


class Asked:
    """A denoiser that counts its questions."""

    def __init__(self, teacher):
        self.teacher, self.count = teacher, 0

    def __call__(self, x, t):
        self.count += 1
        return self.teacher.denoise(x, t)


@pytest.fixture(scope="module")
def ring():
    """The eight-mode teacher, starts at sigma_max, and where the exact ODE takes them."""
    teacher = create_teacher("gmm")
    x = 80 * torch.randn(128, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return teacher, x, solve(teacher.denoise, x, karras(17), 128)


@pytest.mark.parametrize(("name", "per_step"), [("heun", 2), ("unipc", 1)])
def test_solvers_cost_what_they_say(ring, name, per_step):
    teacher, x, _ = ring
    for steps in (1, 2, 5):
        asked = Asked(teacher)
        SOLVERS[name](asked, x, karras(18)[3 : 4 + steps])
        assert asked.count == per_step * steps


@pytest.mark.parametrize(("name", "least", "worst"), [("heun", 1.8, 8e-4), ("unipc", 1.8, 1e-3)])
def test_solvers_converge_at_second_order(ring, name, least, worst):
    teacher, x, exact = ring
    errors = [
        float((SOLVERS[name](teacher.denoise, x, karras(n + 1)) - exact).square().mean().sqrt())
        for n in (64, 128)
    ]
    assert errors[0] < worst
    assert math.log2(errors[0] / errors[1]) > least


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_may_have_times_of_their_own(ring, name):
    teacher, x, _ = ring
    grid = karras(18)
    mine = torch.stack([grid[2:7], grid[9:14]], dim=1)  # [K + 1, B = 2]
    x = x[:2] / 80 * mine[0][:, None]
    together = SOLVERS[name](teacher.denoise, x, mine)
    for b in range(2):
        alone = SOLVERS[name](teacher.denoise, x[b : b + 1], mine[:, b])
        assert torch.allclose(together[b : b + 1], alone, rtol=1e-12)


def test_unipc_is_exact_for_a_denoiser_that_does_not_vary():
    """The linear part of the ODE is solved exactly, however long the steps."""
    times, point = torch.tensor([80.0, 3.0, 2.0, 0.002], dtype=torch.float64), torch.tensor([0.3])
    x = torch.randn(5, 1, dtype=torch.float64)
    found = SOLVERS["unipc"](lambda x, t: point.expand_as(x).double(), x, times)
    assert torch.allclose(found, point + times[-1] / times[0] * (x - point), rtol=1e-12)


@pytest.mark.parametrize("objective", ["ctm", "cd"])
def test_the_solver_is_part_of_an_objectives_identity(objective):
    plain = plugin_spec("objective", PluginRef(name=objective))
    named = plugin_spec("objective", PluginRef(name=objective, params={"solver": "heun"}))
    other = plugin_spec("objective", PluginRef(name=objective, params={"solver": "unipc"}))
    assert plain.identity == named.identity
    assert other.identity != plain.identity
    assert other.label == f"{objective}(solver=unipc)"
    assert create("objective", objective, other.params).params.solver == "unipc"


def test_every_solver_can_be_named():
    assert set(SolverName.__args__) == set(SOLVERS)
