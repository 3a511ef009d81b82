"""What only a GPU can show; `python benchmarks/gpu.py --only tests` runs these on one."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from harness.api import create
from harness.core.group import Group
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer
from harness.train.step import gradients, take_step
from harness.train.torch_settings import arithmetic, repeatable, tune
from tests.cells import cell_of
from tests.conftest import ROOT
from tests.integration.test_on_a_gpu import images, numbers, vectors
from tests.unit.objectives_processes import CASES, OWNER, names
from tests.unit.test_torch_settings import make_smaller_cell

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda", 0)


def cell_on(device):
    """A small U-Net cell with dropout and attention, on a device."""
    repeatable()
    cell = make_smaller_cell()
    cell.spec.train.update(batch=8, lr=1e-3, ema=0.9, warmup=0, optimizer="radam")
    for module in (cell.network, cell.target, cell.teacher.backbone):
        module.to(device)
    cell.precond.to(device)
    return cell


def steps(cell, machine, count, optimizer=None, first=0):
    optimizer = optimizer or Optimizer("radam", cell.network.parameters(), 1e-3)
    with arithmetic(machine.precision):
        logs = [take_step(cell, optimizer, first + k, 4, machine) for k in range(count)]
    return optimizer, logs


@pytest.mark.parametrize("kind", [vectors, images])
def test_a_grid_gives_the_numbers_of_the_host(kind, tmp_path):
    grid = kind()
    host = numbers(tmp_path / "host", grid, {})
    gpu = numbers(tmp_path / "gpu", grid, {}, device="cuda")
    assert gpu == pytest.approx(host, rel=5e-3, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_never_has_the_host_wait(precision):
    cell, machine = cell_on(GPU), Machine(GPU, precision)
    optimizer, _ = steps(cell, machine, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(cell, machine, 3, optimizer, first=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_steps_give_the_same_bits(precision):
    """So a run that was killed and resumed is the run that was not."""
    weights = []
    for _ in range(2):
        cell = cell_on(GPU)
        steps(cell, Machine(GPU, precision), 4)
        weights.append([parameter.detach().clone() for parameter in cell.target.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("precision", "switches", "near"),
    [
        ("fp32", {"compile": False, "channels_last": False}, 1e-3),
        ("tf32", {"compile": False, "channels_last": False}, 3e-2),
        ("bf16", {"compile": False, "channels_last": True}, 1e-1),
        ("bf16", {"compile": True, "channels_last": True}, 1e-1),
    ],
)
def test_switches_change_rounding_alone(precision, switches, near):
    plain, tuned = cell_on(torch.device("cpu")), cell_on(GPU)
    tune(tuned, **switches)
    host, logs = gradients(plain, 0, 4, Machine(torch.device("cpu")))
    with arithmetic(precision):
        found, others = gradients(tuned, 0, 4, Machine(GPU, precision))
    for name in ("ctm", "dsm"):
        assert float(others[name]) == pytest.approx(float(logs[name]), rel=near)
    last = next(
        i for i, p in enumerate(plain.network.parameters()) if p is plain.network.last_layer
    )
    error = (found[last].cpu() - host[last]).norm() / host[last].norm()
    assert float(error) < near


@pytest.mark.parametrize("name", [name for name in names() if name != OWNER])
def test_every_objective_has_the_gradients_of_the_host(name):
    """Those that differentiate the student along a direction, or compare s with s > t, as well."""
    repeatable()
    case = {name: CASES.get(name, {})}
    train = {"batch": 8, "lr": 1e-3, "ema": 0.9}
    found = []
    for device in ("cpu", "cuda"):
        cell = cell_of("unet", "ctm", case, device=device, train=train, budgets=[8])
        machine = Machine(torch.device(device))
        optimizer = Optimizer("radam", cell.network.parameters(), 1e-4)
        logs = [take_step(cell, optimizer, step, 4, machine) for step in range(3)]
        grads, _ = gradients(cell, 3, 4, machine)
        found.append(([{k: float(v) for k, v in log.items()} for log in logs], grads))
    (host, expected), (gpu, grads) = found
    for log, other in zip(host, gpu, strict=True):
        assert other == pytest.approx(log, rel=5e-3, abs=1e-5)
    for a, b in zip(expected, grads, strict=True):
        assert float((b.cpu() - a).norm()) <= 2e-2 * float(a.norm()) + 1e-4
    torch.cuda.set_sync_debug_mode("error")  # the host never waits within a step
    try:
        take_step(cell, optimizer, 4, 4, machine)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_sampling_and_the_calibration_are_those_of_the_host():
    teacher = create("teacher", "unet")
    x, t = torch.randn(4, *teacher.spec.shape), torch.full((4,), 2.0, dtype=torch.float64)
    host = teacher.denoise(x, t)
    gpu = copy.deepcopy(teacher).to(GPU).denoise(x.to(GPU), t.to(GPU))
    assert torch.allclose(gpu.cpu(), host, atol=1e-4)


def test_nccl_with_one_process():
    code = (
        "import json, torch, torch.distributed as d\n"
        "from harness.core.group import Group\n"
        "d.init_process_group('nccl', device_id=torch.device('cuda', 0))\n"
        "x = torch.ones(3, device='cuda'); d.all_reduce(x)\n"
        "print(json.dumps([Group.current().gather([1]), x.tolist()]))\n"
        "d.destroy_process_group()\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "--no-python",
    ]
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [[1], [1.0, 1.0, 1.0]]
    assert Group.current() == Group()
