"""The objective `ctm` against losses and gradients that CTM's reference code recorded."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import one_hot, silu

from harness.api import ConfigError, TeacherSpec, create, create_precond
from harness.config.grid import make_grid
from harness.config.matrix import expand
from harness.core import random
from harness.core.student import Student
from harness.train.step import gradients

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAST = "dec.32x32_aux_conv"


class Tiny(nn.Module):
    """The network of the records, told log(t)/4 and log(s)/4, in EDM's input scaling."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        parameters = {k.replace(".", "/"): nn.Parameter(v) for k, v in weights.items()}
        self.w, self.order = nn.ParameterDict(parameters), list(parameters)

    @property
    def last_layer(self) -> nn.Parameter:
        return self._of(f"{LAST}.weight")

    def _of(self, name: str) -> nn.Parameter:
        return self.w[name.replace(".", "/")]

    def forward(self, x, t, s=None, labels=None):
        def conv(name, h):
            return torch.conv2d(h, self._of(f"{name}.weight"), self._of(f"{name}.bias"), padding=1)

        t, scale = t.expand(len(x)), (t.expand(len(x)) ** 2 + 0.25).rsqrt()
        c_t = t.log() / 4
        c_s = torch.zeros_like(t) if s is None else s.log() / 4  # a teacher is told no s
        told = torch.stack([c_t.cos(), c_t.sin(), c_s.cos(), c_s.sin()], 1).float()
        e = (told @ self._of("e.weight").T + self._of("e.bias"))[:, :, None, None]
        e_l = (labels @ self._of("l.weight").T)[:, :, None, None]
        h = silu(conv("a", scale.float()[:, None, None, None] * x) + e + e_l)
        return conv(LAST, silu(conv("b", h) * (1 + e + e_l)))


def recorded(file: str, form: str) -> tuple[SimpleNamespace, dict[str, torch.Tensor]]:
    """A cell whose batch is the recorded one, and the record of an outer form."""
    with np.load(FIXTURES / file) as stored:
        r = {key: torch.from_numpy(stored[key]) for key in stored}

    def weights(head):
        return {k.removeprefix(head): v for k, v in r.items() if k.startswith(head)}

    net, raw, teacher = (weights(f"w_{part}_") for part in ("net", "raw_ema", "teacher"))
    r |= weights(f"{form}_")
    network = Tiny(net)
    target = Tiny({k: v + 0.1 * raw[k] for k, v in net.items()}).requires_grad_(False)
    frozen = Tiny(teacher).requires_grad_(False)
    spec = TeacherSpec(
        r["x0"].shape[1:], 0.5, sigma_min=0.002, sigma_max=80.0, classes=3, digest=""
    )
    labels = one_hot(r["y"], 3).float()

    def denoise(x, t, y):
        t = t.expand(len(x))[:, None, None, None]
        skip, out = 0.25 / (t**2 + 0.25), t / 2 * (t**2 + 0.25).rsqrt()
        return skip.float() * x + out.float() * frozen(x, t.flatten(), None, y)

    outer = "mixed" if "mixed" in form else form
    precond = create_precond("ctm", outer=outer, sigma_data=0.5)
    cell = SimpleNamespace(
        spec=SimpleNamespace(train={"batch": len(labels)}, seed=0),
        network=network,
        target=target,
        student=Student(network, precond),
        ema_student=Student(target, precond),
        owned={},
        networks=[network, target],
        teacher=SimpleNamespace(spec=spec, denoise=denoise),
        dataset=SimpleNamespace(draw=lambda seed, purpose, k: (r["x0"][k], labels[k])),
    )
    return cell, r


@pytest.fixture
def drawn(monkeypatch):
    """Makes draws of an objective give what was recorded."""

    def use(objective, r):
        tables = {"time": r["i"], "end": r["j"], "noise": r["eps"], "dsm noise": r["eps_dsm"]}

        def lookup(seed, purpose, step, batch_index, *rest):
            return tables.get(purpose, torch.zeros(len(r["i"]), 1))[batch_index]

        monkeypatch.setattr(random, "integers", lookup)
        monkeypatch.setattr(random, "normal", lookup)
        monkeypatch.setattr(random, "uniform", lookup)
        objective.draw_steps = lambda seed, step: int(r["h"])
        objective.draw_dsm_sigma = lambda u, n, batch_index, teacher: r["sigma"][
            batch_index
        ].double()

    return use


def close(cell, found, expected):
    """Gradients in the order in which the record names its weights."""
    by_name = dict(zip((n for n, _ in cell.network.named_parameters()), found, strict=True))
    flat = torch.cat([by_name[f"w.{n}"].flatten() for n in cell.network.order])
    assert (flat - expected).abs().max() < 3e-6 * expected.abs().max()


@pytest.mark.parametrize("micro", [64, 16, 24, 8])
@pytest.mark.parametrize("form", ["euler", "euler_variance_mixed"])
def test_the_weight_of_each_micro_batch(form, micro, drawn):
    """However many samples are computed at a time, 16 of them share a weight."""
    cell, r = recorded("record/ctm_adaptive_weight_micro.npz", form)
    cell.objective = create("objective", "ctm", {"adaptive_batch": 16})
    drawn(cell.objective, r)
    found, logs = gradients(cell, 0, micro, Accelerator(cpu=True))
    assert float(logs["ctm"]) == pytest.approx(float(r["ctm"].mean()), rel=2e-6)
    mean = float(r["dsm_mean_unweighted"].mean())
    assert float(logs["dsm"]) == pytest.approx(mean, rel=2e-6)
    assert float(logs["dsm_weight"]) == pytest.approx(float(r["weight"].mean()), rel=5e-6)
    close(cell, found, r["grad"] / 4)  # the reference adds its 4 micro-batches, here: the mean


@pytest.mark.parametrize("form", ["euler", "variance", "mixed"])
def test_the_loss_of_a_batch(form, drawn):
    cell, r = recorded("published/ctm_loss.npz", form)
    cell.objective = create("objective", "ctm", {})
    drawn(cell.objective, r)
    found, logs = gradients(cell, 0, 6, Accelerator(cpu=True))
    assert float(logs["ctm"]) == pytest.approx(float(r["ctm"].mean()), rel=2e-6)
    weighted = float(logs["dsm"] * logs["dsm_weight"])
    assert weighted == pytest.approx(float(r["dsm_weighted"].mean()), rel=5e-6)
    close(cell, found, r["grad"])


def test_a_weight_that_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="adaptive_batch is what an adaptive"):
        create("objective", "ctm", {"adaptive_batch": 16, "adaptive": False})
    cell, _ = recorded("record/ctm_adaptive_weight_micro.npz", "euler")
    cell.objective = create("objective", "ctm", {"adaptive_batch": 24})
    with pytest.raises(ConfigError, match="24 does not divide the 64 samples"):
        gradients(cell, 0, 64, Accelerator(cpu=True))
    grid = {
        "version": 1,
        "name": "x",
        "axes": {
            "precond": ["ctm"],
            "teacher": ["gmm"],
            "objective": [{"ctm": {"adaptive_batch": 24}}],
        },
        "train": {"batch": 96},
        "launch": {"processes": 8},
        "budgets": [1],
        "results": str(tmp_path),
    }
    with pytest.raises(ConfigError, match="'ctm': adaptive_batch: 24 does not divide the 12"):
        expand(make_grid(grid, [], "grid.yaml"))
