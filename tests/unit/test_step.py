"""One optimizer step: the gradient is the definition's, nothing waits, optimizers are torch's."""

import pytest
import torch
from accelerate import Accelerator

from harness.core.random import integers, normal, uniform
from harness.core.schedule import karras
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer, learning_rate
from harness.train.step import batches, gradients, take_step
from tests.pretended_gpu import pretended_gpu
from tests.unit.test_image_training import make_image_cell
from tests.unit.test_training import make_cell


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def by_definition(cell, step, accelerator):
    """CTM+DSM as docs and papers have it: every pass on every sample, one backward of the sum."""
    (batch,) = batches(cell.dataset, 0, step, 64, 64, accelerator)
    student, target, teacher, x0 = cell.student, cell.ema_student, cell.teacher, batch.x0
    h, grid = cell.objective.draw_steps(0, step), karras(18)
    i = integers(0, "time", step, batch.batch_index, 0, 17 - h)
    j = integers(0, "end", step, batch.batch_index, i + h, 17)
    t, u, s, clean = grid[i], grid[i + h], grid[j], grid[-1].expand(64)
    x_t = x0 + t[:, None].float() * normal(0, "noise", step, batch.batch_index, x0.shape[1:])
    x = x_t
    with torch.no_grad():
        for k in range(h):
            a, b = grid[i + k], grid[i + k + 1]
            width, a1, b1 = ((v.float()[:, None]) for v in (b - a, a, b))
            slope = (x - teacher.denoise(x, a)) / a1
            ahead = x + width * slope
            x = x + width * (slope + (ahead - teacher.denoise(ahead, b)) / b1) / 2
        goal = student.jump(x, u, s)
    estimate = student.jump(x_t, t, s)
    if cell.objective.params.project:
        goal, estimate = (target.jump(x, s, clean) for x in (goal.detach(), estimate))
    ctm = (estimate - goal).square().mean()
    sigma = cell.objective.draw_dsm_sigma(
        uniform(0, "dsm level", step, batch.batch_index, 1)[:, 0],
        normal(0, "dsm log level", step, batch.batch_index, (), torch.float64),
        batch.batch_index,
        teacher,
    )
    eps = normal(0, "dsm noise", step, batch.batch_index, x0.shape[1:])
    error = student.denoise(x0 + sigma[:, None].float() * eps, sigma) - x0
    var = teacher.spec.sigma_data**2
    dsm = (((sigma**2 + var) / (sigma**2 * var)).float() * error.square().mean(1)).mean()
    last = cell.network.last_layer
    sizes = [torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (ctm, dsm)]
    loss = ctm + (sizes[0] / (sizes[1] + 1e-4)).clamp(0, 1e4) * dsm
    return torch.autograd.grad(loss, list(cell.network.parameters()))


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("step", [0, 5, 11])
def test_the_gradient_is_that_of_the_definition(step, project, accelerator):
    """Passes that are skipped and sweeps that are shared change nothing but the last digits."""
    cell = make_cell(project=project)
    torch.manual_seed(step)
    with torch.no_grad():
        for network in (cell.network, cell.target):
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    found, _ = gradients(cell, step, 64, accelerator)
    for a, b in zip(found, by_definition(cell, step, accelerator), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize(
    ("make", "precond", "objective", "optimizer"),
    [
        (make_cell, "ctm", "ctm", "radam"),
        (make_cell, "arc", "cd", "adam"),
        (make_cell, "arc", "ect", "adam"),
        (make_image_cell, "analytic", "ctm", "adamw"),
    ],
)
def test_a_step_never_waits_for_the_device(make, precond, objective, optimizer):
    with pretended_gpu() as gpu:
        cell = make(precond, objective)
        cell.teacher, cell.precond = cell.teacher.to(gpu), cell.precond.to(gpu)
        cell.network, cell.target = cell.network.to(gpu), cell.target.to(gpu)
        cell.spec.train.update(lr=1e-3, warmup=5, ema=0.9)
        device = Machine(gpu)
        made = Optimizer(optimizer, cell.network.parameters(), 1e-3)
        take_step(cell, made, 0, 4, device)  # constants are made once
    with pretended_gpu(may_wait=False):
        logs = take_step(cell, made, 1, 4, device)
    assert all(value.device == gpu for value in logs.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "objective", ["ctm", "scm", "meanflow"]
)  # derivatives: not on a pretended one
def test_a_step_never_waits_for_a_gpu(objective):
    cell = make_cell(objective=objective)
    cell.network, cell.target = cell.network.cuda(), cell.target.cuda()
    for each in cell.owned.values():
        each.module.cuda()
    cell.spec.train.update(lr=1e-3, warmup=0, ema=0.9)
    made, on_gpu = Optimizer("radam", cell.network.parameters(), 1e-3), Accelerator()
    take_step(cell, made, 0, 64, on_gpu)  # allocations and constants of the first step
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(cell, made, 1, 64, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("name", "reference"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)],
)
def test_optimizers_are_torchs_own(name, reference):
    """Same steps as torch.optim's class, and each continues from the other's state."""

    def parameters():
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((4, 3), (7,))]

    mine, theirs = parameters(), parameters()
    ours, official = Optimizer(name, mine, 0.01), reference(theirs, lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        grads = [torch.randn(p.shape, generator=generator) for p in mine]
        ours.step(grads)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = grad
        official.step()
        if step == 6:  # swap states half-way
            state = ours.state_dict()
            fresh = Optimizer(name, mine, 0.01)
            fresh.load_state_dict(official.state_dict())
            ours = fresh
            group = official.state_dict()["param_groups"]
            official.load_state_dict({"state": state["state"], "param_groups": group})
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    assert Optimizer(name, mine, 0.01).state_dict()["state"] == {}


def test_the_learning_rate_of_a_step():
    train = {"lr": 2.0, "warmup": 4}
    assert [learning_rate(train, step) for step in (0, 1, 3, 9999)] == [0.5, 1.0, 2.0, 2.0]
    falling = train | {"lr_sqrt_from": 100}
    assert [learning_rate(falling, step) for step in (0, 100, 400, 10000)] == [0.5, 2.0, 1.0, 0.2]
    ending = train | {"lr_zero_at": 1000}
    assert [learning_rate(ending, step) for step in (500, 1000)] == pytest.approx([1.0, 0.0])


def test_steps_use_that_rate(accelerator):
    def moved(step, **train):
        cell = make_cell()
        cell.spec.train.update(lr=1e-3, warmup=0, ema=0.9, **train)
        before = [p.detach().clone() for p in cell.network.parameters()]
        take_step(cell, Optimizer("adam", cell.network.parameters(), 1e-3), step, 64, accelerator)
        return max(
            float((a - b).abs().max())
            for a, b in zip(before, cell.network.parameters(), strict=True)
        )

    assert moved(30) == pytest.approx(1e-3, rel=1e-2)
    assert moved(30, lr_sqrt_from=10) == pytest.approx(1e-3 / 3**0.5, rel=1e-2)
    assert moved(30, lr_zero_at=60) == pytest.approx(5e-4, rel=1e-2)
