"""Objectives, balance of terms and the student, on a cell small enough to look inside."""

import itertools
from collections import Counter

import pytest
import torch
from accelerate import Accelerator

from harness import api
from harness.api import create_teacher, edm_inner
from harness.core.schedule import karras
from harness.core.student import Student
from harness.train.step import gradients
from tests.cells import cell_of


def make_cell(precond="ctm", objective="ctm", batch=64, seed=0, **params):
    fewer = {"levels": 20, "samples": 256} if precond in ("analytic", "arc") else {}
    return cell_of(
        "gmm",
        {precond: fewer},
        {objective: params},
        seed=seed,
        train={"batch": batch},
        backbone={"width": 16, "depth": 2},
    )


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.parametrize("name", ["ctm", "bcm", "analytic"])
def test_a_fresh_student_denoises_like_its_backbone(name):
    """The s branch is zero: whatever s, F is the backbone's, and so is a tangent denoiser."""
    cell = make_cell(name)
    x, t = torch.randn(9, 2), torch.linspace(0.01, 40, 9, dtype=torch.float64)
    raw = cell.network(x, t)
    for part in (1.0, 0.5, 0.01):
        assert torch.equal(cell.network(x, t, t * part), raw)
    c_skip, c_out = edm_inner(t[:, None], cell.teacher.spec.sigma_data)
    expected = c_skip.float() * x + c_out.float() * raw
    assert torch.equal(cell.student.denoise(x, t), expected)


@pytest.mark.parametrize("name", ["ctm", "edm", "analytic", "arc"])
def test_the_derivative_of_a_jump_is_that_of_differences(name):
    """In float64, network included; and the value is the jump, with its gradient."""
    cell = make_cell(name)
    cell.network.double()
    cell.network.c_noise = lambda t: t.log() / 4
    x, dx = torch.randn(2, 7, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 40, 7, dtype=torch.float64)
    s, dt, h = t / 3, t, 1e-6
    value, carried, changed = cell.student.jump_tangent(x, t, s, dx, dt)
    jumps = [cell.student.jump(x + k * h * dx, t + k * h * dt, s) for k in (-1, 0, 1)]
    assert torch.allclose(value, jumps[1], rtol=1e-12)
    assert value.requires_grad
    assert not (carried.requires_grad)
    assert not (changed.requires_grad)
    assert torch.allclose(carried + changed, (jumps[2] - jumps[0]) / (2 * h), rtol=1e-5, atol=1e-7)


def test_jump_to_t_is_the_identity():
    cell = make_cell("analytic")
    x, t = torch.randn(9, 2), torch.linspace(0.002, 80, 9, dtype=torch.float64)
    assert torch.equal(cell.student.jump(x, t, t), x)


def test_draws_do_not_depend_on_the_preconditioning(accelerator):
    """Two preconditionings see the same data, noise and times: the teacher is asked the same."""
    asked = []
    for name in ("edm", "ctm"):
        cell = make_cell(name)
        record = []
        denoise = cell.teacher.denoise

        def spy(x, sigma, labels=None, record=record, denoise=denoise):
            record.append((x.clone(), sigma.clone()))
            return denoise(x, sigma, labels)

        cell.teacher.denoise = spy
        gradients(cell, 3, 64, accelerator)
        asked.append(record)
    assert len(asked[0]) == len(asked[1]) > 0
    for (x, s), (y, u) in zip(*asked, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(s, u)


def test_ctm_spends_no_pass_on_identities(accelerator):
    """Rows through each network: student B (estimate) + B (dsm) + moving, target 2 x noisy."""
    from harness.core.random import integers

    cell, batch = make_cell(), 64
    for step in range(6):
        seen = Counter()
        for network in (cell.network, cell.target):
            network.inlet.register_forward_pre_hook(
                lambda _, given, network=network, seen=seen: seen.update({network: len(given[0])})
            )
        gradients(cell, step, batch, accelerator)
        h = cell.objective.draw_steps(0, step)
        batch_index = torch.arange(batch)
        i = integers(0, "time", step, batch_index, 0, 17 - h)
        j = integers(0, "end", step, batch_index, i + h, 17)
        assert seen[cell.network] == 2 * batch + int((j > i + h).sum())
        assert seen[cell.target] == 2 * int((j < 17).sum())


def test_solver_steps_are_drawn_in_proportion_to_h():
    objective = api.create("objective", "ctm", {})
    counts = Counter(objective.draw_steps(0, step) for step in range(3000))
    assert set(counts) == set(range(1, 18))
    for h, count in counts.items():
        assert count / 3000 == pytest.approx(h / 153, rel=0.2, abs=0.008)


def test_adaptive_weight_is_the_ratio_of_last_layer_gradients(accelerator):
    """Against the definition, by separate backward passes; and the total is their weighted sum."""
    cell = make_cell()
    total, logs = gradients(cell, 0, 64, accelerator)
    from harness.train.step import batches

    (batch,) = batches(cell.dataset, 0, 0, 64, 64, accelerator)
    terms = cell.objective.terms(cell.student, cell.ema_student, cell.teacher, batch)
    parameters = list(cell.network.parameters())
    grads = {
        name: torch.autograd.grad(term(), parameters, allow_unused=True)
        for name, term in terms.items()
    }
    last = next(i for i, p in enumerate(parameters) if p is cell.network.last_layer)
    weight = grads["ctm"][last].norm() / (grads["dsm"][last].norm() + 1e-4)
    assert float(logs["dsm_weight"]) == pytest.approx(float(weight), rel=1e-5)
    for found, a, b in zip(total, grads["ctm"], grads["dsm"], strict=True):
        expected = sum(g for g in (a, None if b is None else weight * b) if g is not None)
        assert torch.allclose(found, torch.as_tensor(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("objective", ["ctm", "cd"])
def test_micro_batches_do_not_change_the_gradient(objective, accelerator):
    whole, _ = gradients(make_cell(objective=objective), 2, 64, accelerator)
    parts, _ = gradients(make_cell(objective=objective), 2, 16, accelerator)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("distance", ["l2", "pseudo-huber"])
def test_perfect_jumps_have_no_consistency_loss(distance):
    """A 'student' that is the exact ODE of a Gaussian: its CTM and CD losses vanish."""
    sd = 0.5
    teacher = create_teacher("gmm", means=[[0.0, 0.0]], stds=[sd])

    class Exact:
        def jump(self, x, t, s, labels=None):
            scale = ((s**2 + sd**2) / (t**2 + sd**2)).sqrt()
            return scale[:, None].float() * x

        def denoise(self, x, t, labels=None):
            return teacher.denoise(x, t)

    x0, _ = teacher.dataset().draw(0, "x", torch.arange(256))
    batch = api.Batch(x0, None, torch.arange(256), torch.arange(256), 0, 0)
    for name, params in (("ctm", {"nodes": 80, "steps": 6}), ("cd", {"nodes": 80, "steps": 6})):
        objective = api.create("objective", name, {**params, "distance": distance})
        terms = objective.terms(Exact(), Exact(), teacher, batch)
        assert float(terms[name]()) < (1e-5 if distance == "l2" else 5e-3)


def test_sampler_walks_karras_nodes_and_two_jumps_compose():
    jumps = []

    class Spy:
        def jump(self, x, t, s, labels=None):
            jumps.append((float(t[0]), float(s[0])))
            return x

    from harness.core.sampling import exact

    list(exact(Spy(), torch.zeros(3, 2), karras(3)))
    assert jumps == [
        (80.0, pytest.approx(2.5152, rel=1e-4)),
        (pytest.approx(2.5152, rel=1e-4), 0.002),
    ]


def test_published_nodes():
    nodes = [float(x) for x in karras(6)]
    assert nodes == pytest.approx([80, 24.408, 5.8389, 0.96542, 0.085087, 0.002], rel=1e-4)
    assert all(a > b for a, b in itertools.pairwise(nodes))


def test_bf16_backbone_keeps_float32_samples():
    cell = make_cell("analytic")
    x, t = torch.randn(64, 2) * 3, torch.full((64,), 3.0, dtype=torch.float64)
    cell.network.requires_grad_(False)
    exact = cell.student.jump(x, t, t / 5)
    with torch.autocast("cpu", torch.bfloat16):
        low = cell.student.jump(x, t, t / 5)
    assert low.dtype == torch.float32
    assert float((low - exact).abs().max()) < 0.05
    assert isinstance(cell.student, Student)
