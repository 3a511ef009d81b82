"""Every objective: its cost is what it says, it resumes to the same bits, and what it owns learns.

`OWNER` is an objective with a module that learns with the student and one that learns alone.
"""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from harness.api import create, list_objectives
from harness.bench.meter import Meter
from harness.objectives.gan import GanParams
from harness.registry import registry
from harness.store.records import Request
from harness.store.run import Run
from harness.train.loop import Trainer
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer
from harness.train.step import gradients, take_step
from tests.unit.objectives_processes import CASES, OWNER, cell_for, names

HERE = Path(__file__)
CPU = Accelerator(cpu=True)
IMAGES = ("ctm-gan",)
STAGE = set(GanParams.model_fields)


def weights(cell):
    """Everything that a cell trains, in one vector."""
    networks = [cell.network, cell.target, *(each.module for each in cell.owned.values())]
    return torch.cat([p.detach().flatten() for net in networks for p in net.parameters()])


def train(cell, folder, step):
    """Continue a run of a cell in a folder to a step, as a worker does."""
    request = Request(
        budgets=[step], nfe=[1], metrics=[], extractors=[], samples=2, checkpoint_every=3
    )
    trainer = Trainer(cell, Run(folder), request, Machine(torch.device("cpu")))
    trainer.resume(at_most=step)
    trainer.train_to(step)
    return weights(cell)


@pytest.mark.parametrize("name", names())
def test_training_resumes_to_the_same_bits(name, tmp_path):
    whole = train(cell_for(name), tmp_path / "whole", 6)
    before = weights(cell_for(name))
    half = train(cell_for(name), tmp_path / "parts", 3)
    assert torch.equal(train(cell_for(name), tmp_path / "parts", 6), whole)
    assert not torch.equal(before, half)
    assert not torch.equal(half, whole)


@pytest.mark.parametrize("name", names())
def test_micro_batches_change_nothing(name):
    alone = Accelerator(cpu=True)
    whole, _ = gradients(cell_for(name), 2, 32, alone)
    parts, _ = gradients(cell_for(name), 2, 8, alone)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=2e-6 * float(1 + a.abs().max()))


@pytest.mark.slow
def test_two_processes_train_the_same_weights(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.objectives_processes", str(tmp_path)],
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / f"{world}.safetensors") for world in (1, 2))
    assert set(one) == set(names())
    for name, value in one.items():
        assert float((value - two[name]).abs().max()) < 1e-6, name


@pytest.mark.parametrize("name", names())
def test_a_step_costs_what_the_objective_says(name):
    """The mean over many draws, by hooks, with a teacher that is a network of the same size."""
    cell, steps = cell_for(name), 40 if name in IMAGES else 150
    network = copy.deepcopy(cell.target)
    cell.teacher.net = network
    cell.teacher.denoise = lambda x, t, labels=None: x + network(x, t.expand(len(x)))
    with Meter(cell, torch.device("cpu"), timed=False).attached() as meter:
        for step in range(steps):
            gradients(cell, step, 32, Accelerator(cpu=True))
    stated = [cell.objective.evaluations(cell.teacher.spec, step) for step in range(steps)]
    assert meter.evaluations == pytest.approx(sum(stated), rel=0.03)
    drawn = cell.objective.solver_steps()
    if drawn:
        assert sum(drawn.values()) == pytest.approx(1)
        h = max(drawn)
        assert cell.objective.at_solver_steps(h).solver_steps() == {h: 1.0}


def test_what_an_objective_owns_learns_as_it_says():
    """One with the student by every term, one by its own term alone, once there is that term."""
    cell, machine = cell_for(OWNER), Machine(torch.device("cpu"))
    optimizer = Optimizer("radam", cell.network.parameters(), 1e-3)
    states = [{n: o.module.weight.clone() for n, o in cell.owned.items()}]
    for step in range(4):
        logs = take_step(cell, optimizer, step, 16, machine)
        assert ("critic" in logs) == (step >= 2)
        states.append({n: o.module.weight.clone() for n, o in cell.owned.items()})
    moved = [{n: not torch.equal(a[n], b[n]) for n in a} for a, b in itertools.pairwise(states)]
    assert [each["weighting"] for each in moved] == [True] * 4
    assert [each["critic"] for each in moved] == [False, False, True, True]
    again = cell_for(OWNER)
    assert torch.equal(again.owned["critic"].module.weight, states[0]["critic"])


@pytest.mark.parametrize("name", [n for n in list_objectives() if n.endswith("-gan")])
def test_any_objective_may_have_the_adversarial_stage(name):
    """Its discriminator learns by its own term, the student by one more; both cost what is said."""
    base, params = name.removesuffix("-gan"), {"start": 1, "features": "digits-cnn", "width": 4}
    cell = cell_for(name, **({} if name in CASES else {"params": params | CASES.get(base, {})}))
    spec, own = cell.teacher.spec, cell.owned["discriminator"].module
    before = [weight.clone() for weight in own.parameters()]
    for step in (0, 3):
        logs = take_step(cell, Optimizer("radam", cell.network.parameters(), 1e-3), step, 16, CPU)
        assert ("gan" in logs) == ("critic" in logs) == (step > 0)
        assert step == 0 or 0.01 <= logs["gan_weight"] <= 10
    frozen = [p for p in own.parameters() if not p.requires_grad]
    assert frozen
    for old, new in zip(before, own.parameters(), strict=True):
        assert torch.equal(old, new) != new.requires_grad
    plain = create("objective", base, cell.objective.params.model_dump(exclude=STAGE))
    more = cell.objective.evaluations(spec, 3) - plain.evaluations(spec, 3)
    assert more == 3 if cell.objective.params.fake == "jump" else 3 < more < 5
    assert set(cell.objective.samplers) == set(plain.samplers)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{'w': torch.nn.Linear(1, 1)}", "gave 'w' = a Linear, which does not say how it is"),
        ("[torch.nn.Linear(1, 1)]", "modules gave a list of 1, expected {name: Trained(module)}"),
        ("{'w': Trained(torch.nn.Identity())}", "gave 'w' without a weight to train"),
        ("{'w': Trained(torch.nn.Linear(1, 1))}", "no term depends on its module 'w'"),
        ("{'w': Trained(torch.nn.Linear(1, 1), by='loss')}", "no term trains the student"),
    ],
)
def test_modules_that_are_not_trained_are_named_before_training(
    grid, harness, tmp_path, given, told
):
    plugin = tmp_path / "owner.py"
    plugin.write_text(
        "from harness.api import Objective, Trained, register_objective\n"
        "@register_objective('owner')\n"
        "class Owner(Objective):\n"
        "    def modules(self, spec):\n"
        "        import torch\n"
        f"        return {given}\n"
        "    def terms(self, student, target, teacher, batch):\n"
        "        t = batch.x0.new_ones(len(batch.x0)).double()\n"
        "        return {'loss': lambda: student.denoise(batch.x0, t).square().mean()}\n"
    )
    code, _, err = harness(
        "run", "--matrix", grid, "--plugin", plugin, "--set", "axes.objective=[owner]"
    )
    assert code == 2
    assert told in err, err
    assert err.count("\n") == 1
    assert not (tmp_path / "results" / "runs").exists()
    registry._classes["objective"].pop("owner")
