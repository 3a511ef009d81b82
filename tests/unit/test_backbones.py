"""Architectures as plugins: the contract of those shipped, what it catches, one from outside."""

import json

import pytest
import torch
import yaml
from torch import nn

from harness.api import Architecture, ConfigError, TeacherSpec, create, list_backbones, load_student
from harness.backbones.base import Backbone
from harness.backbones.contract import check_architecture
from harness.backbones.dit import image, patches
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.config.schema import Backbone as Section
from tests.cells import cell_of

pytestmark = pytest.mark.usefixtures("forgotten")

SMALL = {
    "mlp": {"width": 16},
    "unet": {"channels": 16, "attention": [4]},
    "ncsnpp": {"channels": 16},
    "adm": {"channels": 16, "attention": [4], "head_channels": 16},
    "dit": {"width": 16, "depth": 2},
}


def spec(name, classes=0):
    shape = (5,) if name == "mlp" else (3, 8, 8)
    return TeacherSpec(shape=shape, sigma_data=0.5, digest="x", classes=classes)


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("name", SMALL)
def test_those_shipped_keep_the_contract(name, classes):
    found = check_architecture(create("backbone", name, SMALL[name]), spec(name, classes))
    assert [f.check for f in found if not f.ok] == []
    assert len(found) == 8


def test_all_that_are_shipped_are_checked():
    assert list_backbones() == sorted(SMALL)


class Square(torch.autograd.Function):
    """Without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Net(Backbone):
    """Correct; each test breaks one thing."""

    def __init__(self, fault=""):
        super().__init__()
        self.sigma_data, self.fault = 0.5, fault
        self.inlet, self.told = nn.Linear(5, 8), nn.Linear(1, 8)
        self.told_s, self.outlet = nn.Linear(1, 8, bias=False), nn.Linear(8, 5)
        self.hidden = torch.randn(8) * (fault == "copies")
        self.zero_s_embedding()

    def reset_parameters(self, seed):
        super().reset_parameters(0 if self.fault == "reset" else seed)

    def zero_s_embedding(self):
        nn.init.constant_(self.told_s.weight, float(self.fault == "s branch"))

    @property
    def last_layer(self):
        weight = self.outlet.weight
        return nn.Parameter(weight.clone()) if self.fault == "last layer" else weight

    def network(self, x, noise_t, noise_s, labels):
        h = self.inlet(x) + self.told(noise_t[:, None])
        if noise_s is not None:
            h = h + self.told_s(noise_s[:, None])
        if self.fault == "samples":
            h = h - h.mean(0)
        h = Square.apply(h) if self.fault == "derivative" else h.tanh()
        return self.outlet(h + self.hidden)[:, : 4 if self.fault == "shape" else 5]


class Faulty(Architecture):
    """Builds it."""

    fault = ""

    def build(self, spec):
        return nn.Linear(5, 5) if self.fault == "build" else Net(self.fault)


@pytest.mark.parametrize(
    "fault",
    ["build", "shape", "samples", "s branch", "last layer", "derivative", "reset", "copies"],
)
def test_the_contract_catches(fault):
    architecture = Faulty()
    assert all(found.ok for found in check_architecture(architecture, spec("mlp")))
    architecture.fault = fault
    wrong = {f.check: f.detail for f in check_architecture(architecture, spec("mlp")) if not f.ok}
    assert fault in wrong
    assert ".py:" in wrong[fault]


def test_patches_are_squares_and_are_put_back_where_they_were():
    x = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    tokens = patches(x, 2)
    assert torch.equal(image(tokens, 2, 3), x)
    assert torch.equal(tokens[1, 5], x[1, :, 2:4, 4:6].flatten())  # second row, third column


def test_a_dit_starts_at_zero_and_learns_every_weight():
    net = create("backbone", "dit", SMALL["dit"]).build(spec("dit"))
    x, t = torch.randn(4, 3, 8, 8), torch.full((4,), 1.0, dtype=torch.float64)
    assert not net(x, t, t / 2).any()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    net(x, t, t / 2).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_the_section_takes_every_way_of_writing_and_says_what_is_wrong():
    long = Section.model_validate({"name": "mlp", "width": 16, "fit_steps": 5})
    assert Section.model_validate({"mlp": {"width": 16, "fit_steps": 5}}) == long
    assert Section.model_validate("mlp").identity((2,)) == Section().identity((2,))
    both = Section.model_validate({"width": 16, "channels": 8, "attention": [4]})
    assert both.identity((2,))["width"] == 16
    assert both.identity((1, 8, 8))["channels"] == 8
    for wrong, told in {
        "mpl": "no backbone is called 'mpl' (did you mean 'mlp'",
        '{"wdith": 16}': "wdith: unknown key (did you mean 'width'",
        '{"name": "mlp", "channels": 8}': "channels: unknown key",
        '{"name": "mlp", "width": 9}': "'mlp': width: ",
        '{"name": "dit", "width": 16, "heads": 3}': "16 cannot be shared by 3 heads",
    }.items():
        value = json.loads(wrong) if wrong.startswith("{") else wrong
        with pytest.raises(ValueError, match="validation error") as caught:
            Section.model_validate(value)
        assert told in str(caught.value)


OUTSIDE = '''
"""A network of one's own."""
import torch
from torch import nn
from harness.api import Architecture, Params, register_backbone
from harness.backbones.base import Backbone


class Net(Backbone):
    def __init__(self, dim, width, sigma_data):
        super().__init__()
        self.sigma_data = sigma_data
        self.inlet, self.outlet = nn.Linear(dim + 1, width), nn.Linear(width, dim)
        self.told_s = nn.Linear(1, width, bias=False)
        self.zero_s_embedding()

    def zero_s_embedding(self):
        nn.init.%s(self.told_s.weight)

    @property
    def last_layer(self):
        return self.outlet.weight

    def network(self, x, noise_t, noise_s, labels):
        h = self.inlet(torch.cat([x, noise_t[:, None]], 1))
        if noise_s is not None:
            h = h + self.told_s(noise_s[:, None])
        return self.outlet(nn.functional.silu(h))


class WideParams(Params):
    width: int = 8


@register_backbone("wide")
class Wide(Architecture):
    """One hidden layer."""

    Params = WideParams

    def build(self, spec):
        return Net(spec.shape[0], self.params.width, spec.sigma_data)
'''


def asked_of(plugin, grid, name):
    backbone = f"backbone={{{name}: {{width: 12, fit_steps: 20, fit_batch: 64}}}}"
    return ["--matrix", grid, "--plugin", plugin, "--set", "axes.precond=[ctm]", "--set", backbone]


def test_one_from_outside_is_tried_before_anything_is_trained(tmp_path, grid, harness):
    plugin = tmp_path / "wide.py"
    plugin.write_text(OUTSIDE % "ones_")
    code, _, err = harness("run", *asked_of(plugin, grid, "wide"))
    assert code == 2
    assert "backbone 'wide': s branch: with s, F differs by" in err
    assert f"{plugin}:" in err
    assert not list((tmp_path / "results").rglob("eval.jsonl"))
    code, out, _ = harness("check", "backbone", "wide", "--plugin", plugin)
    assert (code, "FAILED" in out) == (1, True)


def test_one_from_outside_trains_and_is_recorded(tmp_path, grid, harness):
    plugin = tmp_path / "broad.py"
    plugin.write_text(OUTSIDE.replace('"wide"', '"broad"') % "zeros_")
    code, _, err = harness("run", *asked_of(plugin, grid, "broad"))
    assert code == 0, err
    (run,) = (tmp_path / "results" / "runs").iterdir()
    told = json.loads((run / "spec.json").read_text())["backbone"]
    fit = {"fit_steps": 20, "fit_batch": 64, "fit_lr": 2e-3}
    assert told == {"name": "broad", "width": 12, **fit}
    assert "backbone broad" in (run / "provenance.json").read_text()
    assert type(load_student(run).student.backbone).__name__ == "Net"


@pytest.fixture
def network_grid(grid):
    """Students of the shipped digits U-Net in a network of their own."""
    text = yaml.safe_load(grid.read_text())
    text["axes"] |= {"precond": ["ctm"], "teacher": ["unet"], "objective": [{"ctm": {"steps": 1}}]}
    dit = {"width": 16, "depth": 1, "fit_steps": 3, "fit_batch": 4}
    text["student"] = {"backbone": {"dit": dit}}
    text["evaluate"] |= {"nfe": [1], "samples": 32, "ode_steps": 16, "metrics": ["alignment"]}
    text["train"]["batch"] = 8
    grid.write_text(yaml.safe_dump(text | {"budgets": [0, 2]}))
    return grid


def test_students_of_a_network_teacher_in_another_network(network_grid, tmp_path, harness):
    code, _, err = harness("run", "--matrix", network_grid)
    assert code == 0, err
    assert "students of unet are a dit, fitted to its denoiser, not its own network" in err
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert type(load_student(run).student.backbone).__name__ == "DiT"
    assert list((tmp_path / "results" / "artifacts" / "backbones").glob("*.safetensors"))
    matrix = expand(load_grid(network_grid, ["student={}"]))
    assert matrix.notes == ()
    assert matrix.specs[0].run_id != run.name


def test_random_weights_follow_the_seed():
    def first(seed):
        dit = {"backbone": {"dit": {"width": 16}}}
        cell = cell_of("unet", student=dit, train={"init": "random"}, seed=seed)
        return cell.network.inlet.weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_what_a_student_cannot_have_is_said(grid):
    for setting, told in {
        "student={backbone: dit}": "'dit' does not fit samples of shape [2]: it takes square",
        "student={backbone: mlp, dropout: 0.1}": "student.dropout: backbone 'mlp' has no such",
    }.items():
        with pytest.raises(ConfigError) as caught:
            expand(load_grid(grid, [setting]))
        assert told in str(caught.value)
