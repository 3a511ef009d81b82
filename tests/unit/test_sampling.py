"""Samplers: against numbers of the reference implementations, their names, their noise."""

import itertools
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Coeffs, DenoiserForm, TeacherSpec, create, create_precond, create_teacher
from harness.config.samplers import sampler_names
from harness.core.sampler import Sampler
from harness.core.sampling import Walk, exact, fresh_noise, gamma, nodes, stochastic
from harness.core.schedule import karras
from harness.core.student import Student

RECORD = Path(__file__).parents[1] / "fixtures" / "record"
SPEC = TeacherSpec((3, 4, 4), 0.5, "recorded")


@cache
def recorded(name):
    """Numbers recorded from openai/consistency_models and sony/ctm on a tiny network."""
    with np.load(RECORD / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].ndim} | {
            key: float(file[key]) for key in file.files if not file[key].ndim
        }


class Tiny:
    """The recorded network: amp tanh(W c_in x + b0 + b1 log(t)/4 [+ b2 log(s)/4])."""

    def __init__(self, numbers):
        self.n = numbers

    def __call__(self, x, t, told, s, labels=None):
        n, column = self.n, (slice(None), None, None)
        t = told[:, None, None, None]
        x = (x / (t * t + n["sigma_data"] ** 2).sqrt()).to(x.dtype)
        hidden = torch.einsum("bchw,cd->bdhw", x, n["W"].to(x.dtype)) + n["b0"][column]
        hidden = hidden + n["b1"][column] * t.log() / 4
        if "b2" in n:
            hidden = hidden + n["b2"][column] * s[:, None, None, None].log() / 4
        return n["amp"] * hidden.tanh()


class Through:
    """A preconditioned student on the recorded network."""

    def __init__(self, numbers, precond):
        self.network, self.precond = Tiny(numbers), precond

    def jump(self, x, t, s, labels=None):
        skip, out, _ = self.precond.coeffs(t, s)
        raw = self.network(x, t, t, s)
        wide = (slice(None), None, None, None)
        return (skip[wide] * x + out[wide] * raw).to(x.dtype)


class ConsistencyModel(DenoiserForm):
    """openai's boundary form, in which f(x, sigma_min) = x; its jumps all end at sigma_min."""

    def coeffs(self, t, s):
        low, var = self.sigma_min, self.sigma_data**2
        total = (t - low) ** 2 + var
        return Coeffs(var / total, self.sigma_data * (t - low) / (t * t + var).sqrt())


def replayed(noises, dtype):
    return lambda jump: noises[jump].to(dtype)


@pytest.mark.parametrize(("precision", "bound"), [("f32", 2e-6), ("f64", 2e-9)])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("indices", [(0, 22, 39), (0, 17, 39), (0, 13, 26, 39)])
def test_stochastic_is_that_of_consistency_models(indices, clip, precision, bound):
    n = recorded("cm_samplers")
    dtype = {"f32": torch.float32, "f64": torch.float64}[precision]
    student = Through(n, ConsistencyModel(sigma_data=n["sigma_data"]))
    grid = karras(int(n["steps"]), n["sigma_min"], n["sigma_max"])
    # the reference noises its last result, too, by the rounding of its last level: about 1e-10
    times = grid[list(indices)]
    x = n["unit_x"].to(dtype) * n["sigma_max"]
    *_, found = stochastic(student, x, times, replayed(n["noises"], dtype), clip=clip)
    key = f"ts_{'_'.join(map(str, indices))}_{'clip' if clip else 'noclip'}_{precision}_out"
    assert (found.clamp(-1, 1) - n[key]).abs().max() < bound


@pytest.mark.parametrize("outer", ["euler", "variance", "mixed"])
@pytest.mark.parametrize(("precision", "bound"), [("f32", 2e-5), ("f64", 1e-11)])
@pytest.mark.parametrize("nfe", [1, 2, 3, 5, 10])
def test_exact_gamma_and_stochastic_are_those_of_ctm(nfe, precision, bound, outer):
    n = recorded("ctm_samplers")
    head = "euler_variance_mixed" if outer == "mixed" else outer
    if f"{head}/exact_nfe{nfe}/{precision}/raw" not in n:
        pytest.skip("not recorded")
    dtype = {"f32": torch.float32, "f64": torch.float64}[precision]
    student = Through(n, create_precond("ctm", sigma_data=n["sigma_data"], outer=outer))
    x = n["unit_x"].to(dtype) * n["sigma_max"]
    times, fresh = karras(nfe + 1, n["sigma_min"], n["sigma_max"]), replayed(n["noises"], dtype)
    for name, states in {
        "exact": exact(student, x, times),
        "cm_multistep": stochastic(student, x, times, fresh, clip=False),
        "gamma_multistep_g0.5": gamma(student, x, times, fresh, 0.5),
        "gamma_multistep_g0.2": gamma(student, x, times, fresh, 0.2),
    }.items():
        first, _, last = name.partition("_g")
        key = f"{head}/{first}_nfe{nfe}{'_g' + last if last else ''}/{precision}/raw"
        *_, found = states
        assert (found - n[key]).abs().max() / n[key].abs().max() < bound


def test_published_second_levels():
    """CTM's exact sampler at 2 steps, and openai's --ts 0,22,39 of 40 on ImageNet-64."""
    walk = Walk.of("exact", 2, SPEC)
    assert float(walk.times[1]) == pytest.approx(2.515, abs=1e-3)
    assert float(karras(40)[22]) == pytest.approx(1.382, abs=1e-3)
    listed = Walk.of("stochastic@80,1.382", 2, SPEC)
    assert listed.times.tolist() == [80, 1.382, 0.002]


def test_trained_times_are_nodes_of_the_objectives_grid():
    for name in ("ctm", "cd"):
        grid = create("objective", name, {}).trained_times(SPEC)
        assert torch.equal(grid, karras(18))
        for nfe in (1, 2, 3, 5, 10, 17):
            times = nodes(Sampler.read("exact@trained"), nfe, SPEC, grid)
            assert len(times) == nfe + 1
            assert set(times.tolist()) <= set(grid.tolist())
            assert (times[0], times[-1]) == (80, 0.002)
            assert (times.diff() < 0).all()
        with pytest.raises(ValueError, match="18 steps need 19 levels"):
            nodes(Sampler.read("exact@trained"), 18, SPEC, grid)
    with pytest.raises(ValueError, match="continuous times"):
        nodes(Sampler.read("exact@trained"), 2, SPEC, None)


class Denoiser(Student):
    """A student whose jumps are the teacher's own, one Euler step each."""

    def __init__(self, teacher):
        self.teacher = teacher

    def jump(self, x, t, s, labels=None):
        part = (s / t)[:, None].float()
        return part * x + (1 - part) * self.teacher.denoise(x, t, labels)


@pytest.mark.parametrize("name", ["exact", "gamma0.5", "stochastic"])
def test_noise_belongs_to_samples_whatever_the_batch(name):
    teacher = create_teacher("gmm")
    walk = Walk.of(name, 4, teacher.spec)
    whole = torch.arange(40)
    x = 80 * fresh_noise(3, whole, (2,))(99)

    def draw(indices):
        fresh = fresh_noise(5, indices, (2,))
        return walk.end(Denoiser(teacher), x[indices], fresh)

    parts = torch.cat([draw(part) for part in whole.split(7)])
    assert (draw(whole) - parts).abs().max() < 1e-6
    once, twice = (fresh_noise(5, whole, (2,))(jump) for jump in (0, 1))
    assert abs(float((once * twice).mean())) < 0.5  # two jumps, two noises
    assert not torch.equal(once, twice)
    other = walk.end(Denoiser(teacher), x, fresh_noise(6, whole, (2,)))
    assert torch.equal(draw(whole), other) == (name == "exact")


def test_one_step_is_the_same_jump_for_every_sampler():
    teacher = create_teacher("gmm")
    x, fresh = 80 * torch.randn(9, 2), fresh_noise(0, torch.arange(9), (2,))
    ends = [
        Walk.of(name, 1, teacher.spec, karras(18)).end(Denoiser(teacher), x, fresh)
        for name in ("exact", "exact@trained", "gamma0.3", "stochastic", "stochastic@80")
    ]
    assert all(torch.equal(ends[0], end) for end in ends[1:])


@given(
    kind=st.sampled_from(["exact", "gamma", "stochastic"]),
    gamma=st.floats(1e-4, 1 - 1e-4),
    clip=st.booleans(),
    times=st.one_of(
        st.sampled_from(["karras", "trained"]),
        st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6, unique=True),
    ),
)
def test_a_name_says_all_of_a_sampler(kind, gamma, clip, times):
    if isinstance(times, list):
        times = tuple(sorted(times, reverse=True))
    sampler = Sampler(kind, times, gamma if kind == "gamma" else None, clip or kind != "stochastic")
    assert Sampler.read(sampler.text) == sampler


def test_forms_of_a_grid():
    assert sampler_names("exact") == ["exact"]
    assert sampler_names("exact@karras") == ["exact"]
    assert sampler_names({"exact": {"times": "trained"}}) == ["exact@trained"]
    assert sampler_names({"gamma": {"gamma": 0.5}}) == ["gamma0.5"]
    assert sampler_names({"stochastic": {"times": [80, 1.382]}}) == ["stochastic@80,1.382"]
    both = {"stochastic": {"times": {1: [80], 2: [80, 0.821]}, "clip": False}}
    assert sampler_names(both) == ["stochastic-unclipped@80", "stochastic-unclipped@80,0.821"]


BAD = {
    "heun": "'heun' is no sampler: write exact",
    "gamma": "gamma goes with the sampler of that name",
    "gamma1": "gamma 1 is not between 0 and 1",
    "exact-unclipped": "sampler exact clips nothing",
    "stochastic@1,80": "levels must be numbers that decrease, got 1,80",
    "stochastic@80,80": "levels must be numbers that decrease",
    "stochastic@80,soon": "is no sampler",
    "stochastic@nan": "is no sampler",
}


@pytest.mark.parametrize(("entry", "told"), BAD.items(), ids=list(BAD))
def test_what_is_no_sampler_is_told(entry, told):
    with pytest.raises(ValueError, match="sampler") as error:
        sampler_names(entry)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"stochastic": {"times": {2: [80]}}}, "times for 2 steps are 2 levels, got [80]"),
        ({"stochastic": {"tiems": "trained"}}, "unknown parameter 'tiems' (did you mean 'times'?"),
        ({"stochastic": {"times": "published"}}, "times is karras, trained, or levels"),
        ({"gamma": {"gamma": True}}, "True is no number"),
        ({"stochastic": {"clip": "no"}}, "clip is true or false"),
        ({"exact": "trained"}, "write NAME or"),
        (["exact"], "write NAME or"),
    ],
)
def test_wrong_parameters_are_told(entry, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        sampler_names(entry)


def test_levels_must_suit_the_teacher():
    read = Sampler.read
    assert "first level must be the teacher's sigma_max, 80" in read("stochastic@70,1").misfit(
        0.002, 80
    )
    assert "not above the teacher's sigma_min" in read("exact@80,0.001").misfit(0.002, 80)
    assert read("exact@80,0.01").misfit(0.002, 80) == read("exact").misfit(0.002, 80) == ""


def test_nodes_are_those_that_were_always_walked():
    for nfe in (1, 2, 3, 5, 10):
        assert torch.equal(Walk.of("exact", nfe, SPEC).times, karras(nfe + 1))
        assert all(a > b for a, b in itertools.pairwise(Walk.of("exact", nfe, SPEC).times))
