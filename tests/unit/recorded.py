"""Losses of reference codes, recorded in float64 on a tiny network (tests/fixtures/record)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from harness.api import Batch, Coeffs, Preconditioning, TeacherSpec, create_precond
from harness.backbones.base import Backbone
from harness.core import random
from harness.core.rows import select
from harness.core.solver import per_sample
from harness.core.student import Student

RECORD = Path(__file__).parents[1] / "fixtures" / "record"
#: students of the records end at 0, ours at sigma_min
END = 1e-13


class Tiny(Backbone):
    """W2 m silu(W1 x + b1 + A1 sin(f1 c1 + p1) [+ A2 sin(f2 c2 + p2)] [+ WL label]) + b2."""

    FIXED = ("f1", "p1", "f2", "p2")

    sign = 1

    def __init__(self, weights: dict[str, torch.Tensor], sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data, self.mask = sigma_data, None
        for name, value in weights.items():
            if name in self.FIXED:
                self.register_buffer(name, value)
            elif name not in ("w_lv", "b_lv"):  # of the weighting, which the objective owns
                self.register_parameter(name, nn.Parameter(value.clone()))

    @property
    def last_layer(self):
        return self.W2

    def c_noise(self, t):
        return t.log() / 4

    def network(self, x, noise_t, noise_s, labels):
        h = x.flatten(1) @ self.W1.T + self.b1
        h = h + (self.f1 * noise_t[:, None] + self.p1).sin() @ self.A1.T
        if hasattr(self, "A2"):
            h = h + (self.f2 * noise_s[:, None] + self.p2).sin() @ self.A2.T
        if labels is not None:
            h = h + labels @ self.WL.T
        h = nn.functional.silu(h)
        h = h if self.mask is None else select(self.mask) * h
        return self.sign * (h @ self.W2.T + self.b2).reshape(x.shape)


class TrigFlow(Tiny):
    """The same told theta = arctan(t/sd), with TrigFlow's sign: dx^/dtheta = sd F."""

    sign = -1

    def c_noise(self, t):
        return (t / self.sigma_data).arctan()


class Timestep(Tiny):
    """The same told 250 log t, as consistency models are."""

    def c_noise(self, t):
        return 250 * t.log()


class Straight(Tiny):
    """The network of a mean flow: shown z = x/(1 + t), told tau = t/(1 + t) and tau - rho, or rho.

    Without a time s it is a velocity.
    """

    told_length = True

    def forward(self, x, t, s=None, labels=None):
        tau, rho = t / (1 + t), s / (1 + s)
        second = tau - rho if self.told_length else rho
        return self.network(x / per_sample(1 + t, x), tau, second, labels)


class Absolute(Straight):
    told_length = False


class MeanVelocity(Preconditioning):
    """z_s = z_t - (tau - rho) F on the straight path, in x = (1 + t) z."""

    def coeffs(self, t, s):
        return Coeffs((1 + s) / (1 + t), -(t - s) / (1 + t))


class Head(nn.Module):
    """A recorded learned weighting, w_lv sin(f1 c1 + p1) + b_lv + `more`."""

    def __init__(self, weights, c_noise, more=0.0):
        super().__init__()
        self.fixed, self.c_noise, self.more = weights, c_noise, more
        self.w_lv, self.b_lv = (nn.Parameter(weights[k].clone()) for k in ("w_lv", "b_lv"))

    def forward(self, t):
        told = self.fixed["f1"] * self.c_noise(t)[:, None] + self.fixed["p1"]
        return told.sin() @ self.w_lv + self.b_lv + self.more


def record(file: str) -> list[dict[str, torch.Tensor]]:
    """Every case of a file, with what all of them share."""
    with np.load(RECORD / file) as stored:
        numbers = {k: stored[k] for k in stored}
    plain = {k: v.item() if v.ndim == 0 else torch.from_numpy(v) for k, v in numbers.items()}
    shared = {k: v for k, v in plain.items() if not k.startswith("case")}
    cases = []
    for i in range(shared["n_cases"]):
        head = f"case{i}_"
        own = {k.removeprefix(head): v for k, v in plain.items() if k.startswith(head)}
        cases.append(shared | own)
    return cases


def part(case, head):
    """Weights of one network."""
    return {k.removeprefix(head): v for k, v in case.items() if k.startswith(head)}


def student_of(case, head="net_", precond="ctm", network=Tiny, **params):
    """A student of the recorded weights, whose jumps end as good as at 0."""
    sd = case.get("sigma_data", 0.5)
    made = (
        precond
        if not isinstance(precond, str)
        else create_precond(precond, sigma_data=sd, sigma_min=END, sigma_max=1e6, **params)
    )
    return Student(network(part(case, head), sd), made)


def teacher_of(case, sigma_min=END, head="teach_", network=Tiny):
    """What objectives read of a teacher; a denoiser if one was recorded."""
    sd, shape = case.get("sigma_data", 0.5), case["x" if "x" in case else "y"].shape[1:]
    spec = TeacherSpec(shape, sd, "", sigma_min=sigma_min, sigma_max=80.0)
    denoise = None
    if f"{head}W1" in case:
        teacher = student_of(case, head, network=network)
        denoise = lambda x, t, labels=None: teacher.denoise(x, t.expand(len(x)), labels)  # noqa: E731
    return SimpleNamespace(spec=spec, denoise=denoise)


def batch_of(case, step=0):
    """The recorded batch."""
    x0 = case["x"] if "x" in case else case["y"]
    batch_index = torch.arange(len(x0))
    return Batch(x0, case.get("labels"), batch_index, batch_index, step, 0)


def drawn(monkeypatch, **tables):
    """Make draws of these purposes what was recorded; names have _ for spaces."""

    def lookup(seed, purpose, step, batch_index, *rest):
        return tables[purpose.replace(" ", "_")][batch_index]

    for name in ("normal", "uniform", "integers"):
        monkeypatch.setattr(random, name, lookup)


def close(student, loss, case, rel=1e-6, owned=()):
    """The gradient of a loss, weight by weight, against the recorded one."""
    named = {n: p for net in (student.backbone, *owned) for n, p in net.named_parameters()}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for (name, weight), grad in zip(named.items(), grads, strict=True):
        expected = case.get(f"grad_{name}", torch.zeros_like(weight))
        found = torch.zeros_like(weight) if grad is None else grad
        assert float((found - expected).abs().max()) <= rel * float(expected.abs().max()), name
