"""The free choices of Analytic-Precond: what the student does with them, and what is refused."""

import pytest
import torch

from harness.api import ConfigError, calibrate, create_precond, create_teacher, edm_inner
from harness.core.schedule import karras
from harness.core.student import Student
from harness.evaluate.gap import measure_gaps
from harness.report.coefficients import same_function
from harness.train.coefficients import fingerprint


@pytest.fixture(scope="module")
def ring():
    return create_teacher("gmm")


@pytest.fixture(scope="module")
def artifact(ring):
    precond = create_precond("analytic", sigma_data=ring.spec.sigma_data, samples=512)
    return calibrate(precond, ring).artifact


def make(ring, artifact, **params):
    return create_precond("analytic", sigma_data=ring.spec.sigma_data, **params).load(artifact)


class TeachersRaw:
    """A backbone that is the teacher's own raw output, float64; it keeps what it is shown."""

    def __init__(self, teacher):
        self.teacher = teacher

    def __call__(self, x, t, s, labels=None):
        self.seen = x, t
        c_skip, c_out = (c[:, None] for c in edm_inner(t, self.teacher.spec.sigma_data))
        return (self.teacher.denoise(x, t) - c_skip * x) / c_out


def draw(ring, t):
    x0, _ = ring.dataset().draw(0, "x", torch.arange(64))
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x0.double() + t * noise


def test_inner_and_told_at_s_apply_the_teachers_denoiser_there(ring, artifact):
    """f = beta x + alpha D(y, s) with y = x sqrt((s^2 + sd^2)/(t^2 + sd^2))."""
    sd = ring.spec.sigma_data
    precond = make(ring, artifact, inner="s", told="s")
    t, s = (torch.full((64,), v, dtype=torch.float64) for v in (2.0, 0.3))
    x = draw(ring, 2.0)
    found = Student(TeachersRaw(ring), precond).jump(x, t, s)
    y = x * ((s[0] ** 2 + sd**2) / (t[0] ** 2 + sd**2)).sqrt()
    alpha, beta = precond.outer(t[:, None], s[:, None])
    assert torch.allclose(found, beta * x + alpha * ring.denoise(y, s[0]), atol=1e-12)


def test_centred_a_ring_that_is_elsewhere_is_jumped_the_same(ring):
    """What the network is shown at another level is brought there around the mean as well."""
    away = create_teacher("gmm", centre=[0.9, -0.4])
    shift = torch.tensor([0.9, -0.4]).double()
    t, s = (torch.full((64,), v, dtype=torch.float64) for v in (2.0, 0.3))
    found = []
    for teacher, x in ((ring, draw(ring, 2.0)), (away, draw(ring, 2.0) + shift)):
        free = {"inner": "s", "told": "s", "centre": True, "samples": 2048}
        precond = create_precond("analytic", sigma_data=teacher.spec.sigma_data, **free)
        jump = Student(TeachersRaw(teacher), calibrate(precond, teacher)).jump
        found.append(jump(x, t, s))
    assert torch.allclose(found[1] - shift, found[0], atol=1e-5)


@pytest.mark.parametrize(("told", "level"), [("t", 2.0), ("s", 0.3), ("middle", 0.6**0.5)])
def test_told_changes_the_level_and_not_what_enters_the_network(ring, artifact, told, level):
    """c_in(level) times what is shown is c_in(t) x, whatever level the network is told."""
    sd = ring.spec.sigma_data
    t, s = (torch.full((64,), v, dtype=torch.float64) for v in (2.0, 0.3))
    x, backbone = draw(ring, 2.0), TeachersRaw(ring)
    student = Student(backbone, make(ring, artifact, told=told))
    student.jump(x, t, s)
    shown, seen = backbone.seen
    assert torch.allclose(seen, torch.full_like(t, level))
    assert torch.allclose(shown / (level**2 + sd**2) ** 0.5, x / (4 + sd**2) ** 0.5)
    student.denoise(x, t)
    assert torch.allclose(backbone.seen[1], t)


def test_gap_measures_the_student_that_is_told_another_level(ring, artifact):
    """`gap`'s untrained error is that of a Student with the teacher inside."""
    levels = karras(6)
    preconds = {told: make(ring, artifact, told=told) for told in ("t", "middle", "s")}
    gaps = measure_gaps(preconds, ring, ring.dataset(), levels, 256)
    errors = {told: gaps[told, float(levels[3]), float(levels[4])].untrained for told in preconds}
    assert len(set(errors.values())) == 3
    from harness.core.random import normal
    from harness.core.solver import solve

    x0, _ = ring.dataset().draw(0, "gap", torch.arange(256))
    eps = normal(0, "gap noise", 0, torch.arange(256), (2,), torch.float64)
    x = x0.double() + levels[3] * eps
    end = solve(ring.denoise, x, levels[3:5], 32)
    for told, precond in preconds.items():
        jump = Student(TeachersRaw(ring), precond).jump(
            x, levels[3].expand(256), levels[4].expand(256)
        )
        assert float((jump - end).square().mean().sqrt()) == pytest.approx(errors[told], rel=1e-9)


@pytest.mark.parametrize("cap", [0.6, 1.0, 3.0])
def test_blend_is_forward_where_that_is_tame_and_keeps_to_its_cap(ring, artifact, cap):
    grid = karras(24)
    i, j = torch.triu_indices(24, 24, offset=1)
    t, s = grid[i], grid[j]
    ahead, back, blend = (
        make(ring, artifact, form=form, **extra).outer(t, s)
        for form, extra in (("forward", {}), ("backward", {}), ("blend", {"cap": cap}))
    )
    assert torch.all(blend[0] <= back[0].clamp_min(cap) * (1 + 1e-9))
    tame = ahead[0] <= cap
    wild = (ahead[0] > cap) & (back[0] <= cap)
    assert tame.any()
    assert wild.any()
    for k in (0, 1):
        assert torch.equal(blend[k][tame], ahead[k][tame])
    assert torch.allclose(blend[0][wild], torch.tensor(cap, dtype=torch.float64))
    shares = [((blend[k] - ahead[k]) / (back[k] - ahead[k]))[wild] for k in (0, 1)]
    assert torch.allclose(shares[0], shares[1])
    whole = make(ring, artifact, form="blend", share=1.0).outer(t, s)
    assert torch.allclose(whole[0], back[0])
    assert torch.allclose(whole[1], back[1])


def test_parameters_that_nothing_would_read_are_refused():
    for params, sentence in (
        ({"cap": 2.0}, "go with form: blend"),
        ({"form": "forward", "share": 0.5}, "go with form: blend"),
        ({"form": "blend", "S_at": "t"}, "go with form: forward or backward"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            create_precond("analytic", sigma_data=0.5, **params)


def test_what_the_network_is_told_is_part_of_the_function(ring, artifact):
    """Equal coefficients, another level told: not the same thing. Older files say nothing."""
    plain, other = (fingerprint(make(ring, artifact, told=told)) for told in ("t", "s"))
    assert plain["out"] == other["out"]
    assert not same_function(plain, other)
    older = {key: value for key, value in plain.items() if key != "told"}
    assert same_function(plain, older)
    assert not same_function(older, other)


def test_variants_share_one_measurement():
    base = create_precond("analytic", sigma_data=0.5)
    for params in ({"form": "forward"}, {"centre": True}, {"told": "s"}, {"S_at": "t"}):
        assert create_precond("analytic", sigma_data=0.5, **params).measured == base.measured
    for params in ({"statistics": "jvp"}, {"levels": 60}, {"samples": 64}):
        assert create_precond("analytic", sigma_data=0.5, **params).measured != base.measured
