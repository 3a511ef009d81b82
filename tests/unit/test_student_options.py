"""A grid's `student` section: dropout, the branch that reads s, and how it starts."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness.api import ConfigError, create_precond, create_teacher
from harness.backbones.adm import DhariwalUNet
from harness.backbones.dropout import Dropout
from harness.backbones.inner import EDM
from harness.backbones.mlp import MLP
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from harness.config.grid import make_grid
from harness.config.matrix import expand
from harness.core.student import Student
from harness.train.cell import build_cell
from tests.unit.edm_layout import randomise

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "published"
PER_BLOCK = {"s_branch": "per_block"}
TINY = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}


def ctm_small() -> UNetBackbone:
    """The recorded network of CTM's CIFAR-10 reference code, in ours."""
    net = SongUNet(16, 3, 3, 10, 0, 16, [1, 2], num_blocks=1, attn_resolutions=[8])
    backbone = UNetBackbone(net, EDM(), 3)
    net.add_s_embedding()
    backbone.adapt(PER_BLOCK, seed=0)
    weights = torch.load(PUBLISHED / "ctm_small.pt", weights_only=True)
    net.load_state_dict({key.removeprefix("model."): value for key, value in weights.items()})
    return backbone.eval()


@pytest.mark.parametrize(
    ("file", "name", "outer"),
    [
        ("ctm_network", "euler", "euler"),
        ("ctm_network_other_outer", "variance", "variance"),
        ("ctm_network_other_outer", "euler_variance_mixed", "mixed"),
    ],
)
def test_per_block_is_the_network_of_ctms_reference_code(file, name, outer):
    student = Student(ctm_small(), create_precond("ctm", sigma_data=0.5, outer=outer))
    with np.load(PUBLISHED / f"{file}.npz") as stored:
        r = {key: torch.from_numpy(stored[key]) for key in stored}
    labels = torch.eye(10)[r["y"]]
    with torch.no_grad():
        for k, (t, s) in enumerate(r["pairs"]):
            x = r["x0"] + t.float() * r["eps"]
            for told, given in (("labels", labels), ("nolabels", None)):
                expected = r[f"G_{name}_{told}"][k]
                found = student.jump(x, t.expand(2), s.expand(2), given)
                assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp_min(1)
        for k, t in enumerate(r["denoiser_t"]):
            x, expected = r["x0"] + t.float() * r["eps"], r[f"denoiser_{name}"][k]
            error = (student.denoise(x, t.expand(2), labels) - expected).abs().max()
            # in float32 the terms of the mixed form in x cancel at t = 80, in theirs and in ours
            assert error < (1e-4 if outer == "mixed" else 1e-5) * expected.abs().max().clamp_min(1)


def test_the_published_size():
    with torch.device("meta"):
        net = SongUNet(32, 3, 3, 10, 0, 128, [2, 2, 2])
        net.add_s_embedding()
        net.s_embedding_per_block()
    count = sum(p.numel() for p in net.parameters())
    per_block = sum(p.numel() for n, p in net.named_parameters() if ".affine_s." in n)
    assert (round(count / 1e6, 2), round(per_block / 1e6, 2)) == (60.40, 4.33)


def tiny(kind, **options):
    torch.manual_seed(0)
    width = {"model_channels": 64} if kind is DhariwalUNet else {}
    net = randomise(kind(8, 3, 3, **{**TINY, **width, **options}))
    return UNetBackbone(net, EDM(), 3)


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_a_silent_branch_changes_no_bit_and_can_learn(kind):
    net = tiny(kind, label_dim=4).eval()
    t, s = torch.tensor([0.3, 5.0]).double(), torch.tensor([0.1, 0.002]).double()
    x, labels = torch.randn(2, 3, 8, 8), torch.eye(4)[:2]
    with torch.no_grad():
        expected = net(x, t, None, labels)
    net.net.add_s_embedding()
    net.adapt(PER_BLOCK, seed=0)
    assert torch.equal(net(x, t, s, labels), expected)
    net(x, t, s, labels).square().sum().backward()
    layers = [m for n, m in net.named_modules() if n.endswith(".affine_s")]
    assert len(layers) == sum(n.endswith(".affine") for n, _ in net.named_modules())
    with torch.no_grad():
        for layer in layers:
            assert layer.weight.grad.abs().sum() > 0
            layer.weight -= 1e-2 * layer.weight.grad.sign()
        moved = net(x, t, s, labels)
        assert not torch.equal(moved, expected)
        assert not torch.equal(moved, net(x, t, s.flip(0), labels))
        assert torch.equal(net(x, t, None, labels), expected)


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_a_random_branch_depends_on_the_seed_and_moves_f_as_the_reference_does(kind):
    drawn = []
    for seed in (0, 0, 1):
        net = tiny(kind).eval()
        net.net.add_s_embedding()
        net.adapt({**PER_BLOCK, "s_init": "reference"}, seed)
        drawn.append(net.state_dict())
    keys = [key for key in drawn[0] if "_s." in key and key.endswith("weight")]
    assert keys
    for key in keys:
        assert torch.equal(drawn[0][key], drawn[1][key])
        assert not torch.equal(drawn[0][key], drawn[2][key])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 5.0]).double()
    with torch.no_grad():
        change = (net(x, t, t / 10) - net(x, t)).square().mean().sqrt()
    assert 1e-3 < change < net(x, t).square().mean().sqrt()


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_forward_mode_reaches_s(kind):
    net = tiny(kind).double().eval()
    net.dtype = torch.float64
    net.net.add_s_embedding()
    net.adapt({**PER_BLOCK, "s_init": "reference"}, 1)
    net = net.double()
    x, t = torch.randn(2, 3, 8, 8).double(), torch.tensor([0.3, 5.0]).double()
    s, h = t / 4, 1e-3
    with torch.no_grad():
        _, slope = torch.func.jvp(lambda s: net(x, t, s), (s,), (s,))
        difference = (net(x, t, s * (1 + h)) - net(x, t, s * (1 - h))) / (2 * h)
    assert (slope - difference).norm() < 2e-2 * difference.norm()


def test_dropout_is_the_students_alone():
    teacher = create_teacher("unet")
    network = teacher.network()
    network.adapt({"dropout": 0.25}, seed=0)
    assert {m.p for m in network.modules() if isinstance(m, Dropout) and not m.whole} == {0.25}
    assert 0.25 not in {m.p for m in teacher.backbone.modules() if isinstance(m, Dropout)}


def test_a_backbone_without_the_choice_says_so():
    with pytest.raises(ConfigError, match=r"student\.s_branch: a MLP has no such choice"):
        MLP(2, sigma_data=0.5, width=16, depth=1).adapt(PER_BLOCK, seed=0)


# -- in a grid ---------------------------------------------------------------------------------


def planned(tmp_path, **sections):
    data = {
        "version": 1,
        "name": "x",
        "axes": {"precond": ["ctm"], "teacher": ["unet"], "seed": [0, 1]},
        "budgets": [1],
        "evaluate": {"extractors": ["digits-cnn"]},
        "results": str(tmp_path),
        **sections,
    }
    return expand(make_grid(data, [], "grid.yaml")).specs


def test_defaults_leave_ids_as_they_were(tmp_path):
    (bare, _), (told, _) = (
        planned(tmp_path, **more)
        for more in ({}, {"student": {"s_branch": "shared", "s_init": "zero", "dropout": None}})
    )
    assert bare.run_id == told.run_id
    assert "student" not in bare.to_json()
    other = planned(tmp_path, student={"s_branch": "per_block"})[0]
    assert other.run_id != bare.run_id
    assert type(other).from_json(other.to_json()) == other
    assert other.to_json()["student"] == {"s_branch": "per_block"}


def test_what_a_grid_cannot_have_is_refused_when_planned(tmp_path, grid, harness):
    with pytest.raises(ConfigError, match=r"student: s_init: .*write s_branch: per_block too"):
        planned(tmp_path, student={"s_init": "reference"})
    text = yaml.safe_load(grid.read_text())
    grid.write_text(yaml.safe_dump({**text, "student": {"s_branch": "per_block"}}))
    code, _, err = harness("run", "--matrix", grid)
    assert code == 2
    assert "student.s_branch: backbone 'mlp' has no such choice" in err
    assert not (tmp_path / "results" / "runs").exists() or not any(
        (tmp_path / "results" / "runs").iterdir()
    )


def test_initial_weights_depend_on_the_seed_where_they_are_random(tmp_path):
    def start(**sections):
        for spec in planned(tmp_path, **sections):
            yield build_cell(spec, tmp_path, torch.device("cpu")).network.state_dict()

    def same(one, two):
        return {key for key in one if torch.equal(one[key], two[key])}

    random = list(start(train={"init": "random"}))
    last = "net.dec.8x8_aux_conv.weight"
    assert last not in same(*random)
    teacher = list(start())
    assert same(*teacher) == set(teacher[0])
    drawn = list(start(student={"s_branch": "per_block", "s_init": "reference"}))
    differing = {key for key in drawn[0] if key not in same(*drawn)}
    assert differing
    assert all("_s." in key for key in differing)


def test_runs_from_before_initial_weights_had_seeds_start_as_they_did(tmp_path):
    one, two = planned(tmp_path, train={"init": "random"})
    for spec in (one, two):
        del spec.train["init_seeded"]
    a, b = (build_cell(s, tmp_path, torch.device("cpu")).network.last_layer for s in (one, two))
    assert torch.equal(a, b)
