"""Labels and images through a whole cell: gradients, random starts, sample pictures, plans."""

import hashlib
import json

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from harness.api import Teacher, TeacherSpec
from harness.backbones.inner import EDM
from harness.backbones.mlp import MLP
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from harness.core.sampling import Walk
from harness.core.student import Student
from harness.evaluate.pictures import save_pictures
from harness.train.step import gradients
from tests.cells import cell_of
from tests.conftest import ROOT
from tests.unit.edm_layout import randomise
from tests.unit.image_files import layout, write_zip


def small_unet(classes=10):
    torch.manual_seed(0)
    net = SongUNet(8, 1, 1, label_dim=classes, model_channels=8, channel_mult=[1, 2], num_blocks=1)
    randomise(net)
    return UNetBackbone(net, EDM(sigma_data=0.5), 1)


class Conditional(Teacher):
    """A tiny conditional network that remembers what it was asked."""

    is_network = True

    def __init__(self, params=None):
        super().__init__(params)
        self.spec = TeacherSpec((1, 8, 8), 0.5, "x", classes=10)
        self.backbone = small_unet().eval().requires_grad_(False)
        self.asked = []

    def denoise(self, x, sigma, labels=None):
        self.asked.append(labels)
        return self.backbone.denoise(x, torch.as_tensor(sigma), labels)

    def network(self):
        fresh = small_unet()
        fresh.net.add_s_embedding()
        return fresh

    def to(self, device):
        self.backbone.to(device)
        return self


def make_image_cell(precond="ctm", objective="ctm"):
    few = {"levels": 12, "samples": 8} if precond == "analytic" else {}
    return cell_of(
        f"{__name__}:Conditional",
        {precond: few},
        {objective: {"nodes": 4}},
        {"digits": {"labels": True}},
        train={"batch": 4},
    )


@pytest.fixture
def cell():
    return make_image_cell()


def test_labels_reach_teacher_and_student(cell):
    seen = []
    network = cell.network.net.forward
    cell.network.net.forward = lambda x, n, labels, *rest: (
        seen.append(labels) or network(x, n, labels, *rest)
    )
    grads, _ = gradients(cell, 0, 4, Accelerator(cpu=True))
    _, labels = cell.dataset.draw(0, "training data", torch.arange(4))
    assert labels.shape == (4, 10)
    for found in [*cell.teacher.asked, *seen]:
        assert {tuple(row) for row in found.tolist()} <= {tuple(row) for row in labels.tolist()}
    assert torch.equal(cell.teacher.asked[0], labels)
    names = [name for name, _ in cell.network.named_parameters()]
    assert float(grads[names.index("net.map_label.weight")].abs().max()) > 0


def test_a_fresh_conditional_student_denoises_like_its_teacher(cell):
    x, labels = cell.dataset.draw(0, "x", torch.arange(6))
    t = torch.linspace(0.01, 20, 6, dtype=torch.float64)
    student = Student(cell.network.eval(), cell.precond)
    with torch.no_grad():
        difference = student.denoise(x, t, labels) - cell.teacher.denoise(x, t, labels)
        other = student.denoise(x, t, labels.roll(1, dims=1)) - student.denoise(x, t, labels)
    assert float(difference.abs().max()) < 1e-6
    assert float(other.abs().max()) > 1e-3


@pytest.mark.parametrize("make", [small_unet, lambda: MLP(2, sigma_data=0.5, width=16, depth=1)])
def test_reset_parameters(make):
    first, second = make(), make()
    if isinstance(first, UNetBackbone):
        first.net.add_s_embedding()
        second.net.add_s_embedding()
    shape = (3, 2) if isinstance(first, MLP) else (3, 1, 8, 8)
    for network, noise in ((first, 0), (second, 1)):
        randomise(network, noise)
        network.reset_parameters(seed=5)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    x, t = torch.randn(shape), torch.tensor([0.1, 1.0, 9.0]).double()
    first.eval()
    with torch.no_grad():
        assert torch.equal(first(x, t, t / 3), first(x, t))
    second.reset_parameters(seed=6)
    assert not torch.equal(first.last_layer, second.last_layer)


def test_pictures_show_the_same_noise(tmp_path):
    spec = TeacherSpec((1, 8, 8), 0.5, "x", classes=10)

    class Shrink:
        def jump(self, x, t, s, labels=None):
            assert labels.shape == (64, 10)
            return x * (s / t)[:, None, None, None].float()

    walk = (Shrink(), Walk.of("exact", 2, spec))
    save_pictures({tmp_path / "step-1": walk, tmp_path / "step-2": walk}, spec, 0, "cpu")
    found = sorted(tmp_path.iterdir())
    assert [path.name for path in found] == ["step-1.png", "step-2.png"]
    assert found[0].read_bytes() == found[1].read_bytes()
    with Image.open(found[0]) as image:
        assert (image.size, image.mode) == ((8 * 34 + 2, 8 * 34 + 2), "L")
        assert np.asarray(image)[0, 0] == 255
    save_pictures({tmp_path / "none" / "x": walk}, TeacherSpec((2,), 0.5, "x"), 0, "cpu")
    assert not (tmp_path / "none").exists()


def test_an_image_grid_runs_and_leaves_pictures(tmp_path, harness):
    path = write_zip(tmp_path / "set.zip", layout(6))
    grid = tmp_path / "grid.yaml"
    data = {"name": "zip", "params": {"path": str(path), "labels": True}}
    text = {
        "version": 1,
        "name": "pictures",
        "axes": {
            "precond": ["ctm"],
            "teacher": [{"name": "empirical", "params": {"dataset": data, "bandwidth": 0.1}}],
            "objective": ["cd"],
        },
        "train": {"batch": 4, "log_every": 1},
        "backbone": {"channels": 8, "fit_steps": 2, "fit_batch": 4},
        "budgets": [1],
        "evaluate": {"nfe": [1, 2], "samples": 8, "metrics": ["alignment"], "ode_steps": 16},
        "launch": {"device": "cpu", "threads": 1},
        "results": str(tmp_path / "results"),
    }
    grid.write_text(yaml.safe_dump(text))
    code, out, err = harness("run", "--matrix", grid)
    assert code == 0, out + err
    (run,) = (tmp_path / "results/runs").iterdir()
    names = [p.name for p in sorted((run / "samples").iterdir())]
    stem = "step-00000001-nfe"
    assert names == [f"{stem}1-stochastic.png", f"{stem}2-stochastic.png"]
    assert json.loads((run / "spec.json").read_text())["backbone"]["name"] == "unet"


def test_grey_images_and_other_sizes_are_refused_when_planned(tmp_path, harness):
    path = write_zip(tmp_path / "set.zip", layout(4))
    data = {"name": "zip", "params": {"path": str(path)}}
    grid = tmp_path / "grid.yaml"
    axes = {"precond": ["ctm"], "teacher": [{"name": "empirical", "params": {"dataset": data}}]}
    for size, words in ((8, "(3, 8, 8), the data are (1, 8, 8)"), (16, "data are (1, 16, 16)")):
        digits = {"name": "digits", "params": {"size": size}}
        text = {"version": 1, "name": "x", "axes": axes | {"dataset": [digits]}, "budgets": [1]}
        grid.write_text(yaml.safe_dump(text))
        code, _, err = harness("plan", "--matrix", grid)
        assert code == 2
        assert words in err


def test_plugins_that_are_filtered_out_need_not_be_there(grid, harness):
    text = yaml.safe_load(grid.read_text())
    missing = {"name": "edm", "params": {"weights": "/nowhere.pkl"}}
    text["axes"]["teacher"] = ["gmm", missing]
    grid.write_text(yaml.safe_dump(text))
    assert harness("plan", "--matrix", grid)[0] == 2
    code, out, err = harness("plan", "--matrix", grid, "--only", "teacher=gmm")
    assert code == 0, err
    assert "2 cells" in out


@pytest.mark.parametrize("name", ["cifar10", "ffhq64", "imagenet64", "emoji32"])
def test_shipped_grids_say_what_is_missing(name, harness, monkeypatch, tmp_path):
    text = yaml.safe_load((ROOT / "grids" / f"{name}.yaml").read_text())
    for variable in text["needs"]:
        monkeypatch.delenv(variable, raising=False)
    code, _, err = harness("plan", "--matrix", ROOT / "grids" / f"{name}.yaml")
    assert code == 2
    assert len(err.splitlines()) < 24
    several = len(text["needs"]) > 1  # one thing is one sentence
    assert ("With them: 24 cells or fewer (4 precond x 1 teacher x" in err) == several
    for variable, need in text["needs"].items():
        assert f"environment variable {variable} is not set" in err
        need = {"file": need} if isinstance(need, str) else need
        assert need["file"].split(",")[0] in err
        assert need.get("command", "") in err
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    code, _, err = harness("plan", "--matrix", ROOT / "grids" / f"{name}.yaml")
    assert code == 2
    for variable in text["needs"]:
        if variable != "LPIPS_HEADS":  # told once the trunk is there
            assert str(tmp_path / variable.lower()) in err


def test_a_file_with_another_digest_is_refused_before_training(
    grid, harness, monkeypatch, tmp_path
):
    file = tmp_path / "weights.pkl"
    file.write_bytes(b"half of it")
    monkeypatch.setenv("SOME_FILE", str(file))
    need = {
        "file": "weights.pkl from https://x.org/",
        "sha256": "0123456789ab",
        "command": "curl x",
    }
    words = ["--matrix", grid, "--set", f"needs.SOME_FILE={need}"]
    code, _, err = harness("run", *words)
    assert code == 2
    assert f"{file} (SOME_FILE) has sha256 " in err
    assert "not 0123456789ab" in err
    assert "get it with `curl x`" in err
    assert not (tmp_path / "results" / "runs").exists()
    need["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert harness("run", *words[:-1], f"needs.SOME_FILE={need}", "--dry-run")[0] == 0
