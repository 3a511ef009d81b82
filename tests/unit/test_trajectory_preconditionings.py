"""lsq, moment, balanced, arc: each does what its name says, on trajectories not of its making."""

import itertools

import pytest
import torch

from harness.api import calibrate, create_precond, create_teacher, edm_inner
from harness.core.random import normal
from harness.core.schedule import karras
from harness.core.solver import solve
from harness.evaluate.gap import measure_gaps

LEVELS = karras(6)
PAIRS = [(0, 4), (1, 4), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)]


def at(value):
    return torch.tensor([float(value)], dtype=torch.float64)


MEASURED = {}


def make(name, teacher, **params):
    """A calibrated preconditioning; the measurement, which is the same for all, is made once."""
    made = create_precond(name, sigma_data=teacher.spec.sigma_data, **params)
    if not made.needs_calibration():
        return made
    digest = teacher.spec.digest
    if digest not in MEASURED:
        MEASURED[digest] = calibrate(made, teacher).artifact
    return made.load(MEASURED[digest])


@pytest.fixture(scope="module")
def ring():
    return create_teacher("gmm")


@pytest.fixture(scope="module")
def trajectories(ring):
    """x at the levels, and the teacher's raw output there, from noise of another seed."""
    numbers = torch.arange(4000)
    x0, _ = ring.dataset().draw(77, "held out", numbers)
    x = x0.double() + 80 * normal(77, "held out noise", 0, numbers, (2,), torch.float64)
    places = [x]
    for a, b in itertools.pairwise(LEVELS):
        places.append(solve(ring.denoise, places[-1], torch.stack([a, b]), 64))
    outputs = []
    for t, x in zip(LEVELS, places, strict=True):
        c_skip, c_out = edm_inner(t, ring.spec.sigma_data)
        outputs.append((ring.denoise(x, t) - c_skip * x) / c_out)
    return places, outputs


def jump(precond, i, j, trajectories):
    """(f, the target of F, x_s) of an untrained student's jump from level i to level j."""
    (places, outputs), (t, s) = trajectories, (LEVELS[i : i + 1], LEVELS[j : j + 1])
    skip, out, shift = precond.coeffs(t, s)
    rest = skip * places[i] + (0 if shift is None else shift * precond.offset)
    return rest + out * outputs[i], (places[j] - rest) / out, places[j]


def rms(values):
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_lsq_is_the_regression_on_x_and_the_denoiser(ring, trajectories, i, j):
    """Without ridge: numpy-style least squares on other trajectories finds no smaller error."""
    precond = make("lsq", ring, ridge=0.0)
    found, _, x_s = jump(precond, i, j, trajectories)
    places, outputs = trajectories
    columns = torch.stack([places[i].flatten(), outputs[i].flatten()], 1)
    best = torch.linalg.lstsq(columns, x_s.reshape(-1, 1)).solution
    least = rms(columns @ best - x_s.reshape(-1, 1))
    assert least <= rms(found - x_s) * (1 + 1e-9)
    assert rms(found - x_s) < least * 1.03 + 1e-4
    for other in ("ctm", "trigflow", "moment", "balanced"):
        assert rms(jump(make(other, ring), i, j, trajectories)[0] - x_s) > 0.99 * least


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_moment_to_the_letter_gives_targets_of_unit_variance(ring, trajectories, i, j):
    """And its skip leaves the least to the network: targets have nothing of x in them."""
    _, target, _ = jump(make("moment", ring, tangent=False), i, j, trajectories)
    x = trajectories[0][i]
    assert rms(target) == pytest.approx(1, rel=0.03)
    assert abs(float((target * x).mean())) / rms(target) / rms(x) < 0.03


def test_moment_keeps_the_teachers_variance_in_short_jumps(ring):
    """`tangent: false` asks for unit variance there too: the teacher's RMS at t = .4 is .34."""
    t, s = at(0.4), at(0.396)
    for tangent in (True, False):
        precond = make("moment", ring, tangent=tangent)
        implied = precond.denoiser_coeffs(t)
        _, c_out = edm_inner(t, ring.spec.sigma_data)
        jump, ctm = (p.coeffs(t, s).out for p in (precond, make("ctm", ring)))
        for share in (float(implied.out / c_out), float(jump / ctm)):
            assert share == pytest.approx(1 if tangent else 0.34, abs=0.03)


@pytest.mark.parametrize("reach", [1.0, 0.5])
def test_balanced_reaches_no_further_than_it_says(ring, trajectories, reach):
    """Targets beyond x are at most `reach`; where lsq keeps to that, it is lsq."""
    balanced = make("balanced", ring, reach=reach)
    lsq = make("lsq", ring)
    same = 0
    for i, j in PAIRS:
        _, target, _ = jump(balanced, i, j, trajectories)
        x = trajectories[0][i]
        beyond = target - (target * x).mean() / (x * x).mean() * x
        assert rms(beyond) < 1.05 * reach
        mine, its = (p.coeffs(LEVELS[i : i + 1], LEVELS[j : j + 1]).out for p in (balanced, lsq))
        assert float(mine) > float(its) * 0.99  # a maximum has kinks, tables have not
        same += float(mine) == pytest.approx(float(its), rel=1e-9)
    assert 0 < same < len(PAIRS)


def test_untrained_errors_are_below_ctms_everywhere(ring):
    """On the ring the carried part alone halves the error of every jump from 80."""
    preconds = {name: make(name, ring) for name in ("ctm", "lsq", "balanced")}
    gaps = measure_gaps(preconds, ring, ring.dataset(), LEVELS, 512)
    for name in ("lsq", "balanced"):
        for (other, t, s), gap in gaps.items():
            if other == name:
                assert gap.untrained < 0.75 * gaps["ctm", t, s].untrained
        assert gaps[name, 80.0, 0.002].untrained < 0.5 * gaps["ctm", 80.0, 0.002].untrained


def test_arc_has_the_scale_of_a_mean_velocity_and_asks_for_the_smallest_change(ring):
    """out is the angle of the jump times r_s, so what is multiplied never exceeds pi/2."""
    arc, plain = make("arc", ring), make("trigflow", ring, step="arc")
    t, s = LEVELS[:, None], LEVELS
    for mine, closed in zip(arc.coeffs(t, s)[1:2], plain.coeffs(t, s)[1:2], strict=True):
        assert torch.allclose(mine.triu(1), closed.triu(1), rtol=2e-3, atol=1e-12)
    gaps = measure_gaps({n: make(n, ring) for n in ("ctm", "arc")}, ring, ring.dataset(), LEVELS)
    for i, j in PAIRS[:4]:
        t, s = float(LEVELS[i]), float(LEVELS[j])
        assert gaps["arc", t, s].to_t < 0.5 * gaps["ctm", t, s].to_t


@pytest.mark.parametrize("name", ["lsq", "moment", "balanced", "arc"])
def test_a_shifted_distribution_is_jumped_the_same(name, ring):
    """Coefficients do not change, and the shift moves the jump along."""
    away = create_teacher("gmm", centre=[0.9, -0.4])
    home, there = make(name, ring), make(name, away)
    t, s = at(2.5), at(0.3)
    for a, b in zip(home.coeffs(t, s)[:2], there.coeffs(t, s)[:2], strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)
    assert torch.allclose(there.offset, torch.tensor([0.9, -0.4]).double(), atol=1e-7)


@pytest.mark.parametrize("name", ["lsq", "moment", "balanced", "arc"])
def test_gaussian_data_are_exact_without_the_network(name):
    """The teacher says nothing beyond x: all is carried, and out is ctm's."""
    sd = 0.7
    teacher = create_teacher("gmm", means=[[0.3, 0.0]], stds=[sd])
    precond, ctm = make(name, teacher), create_precond("ctm", sigma_data=sd)
    for t, s in [(80, 0.002), (80, 2.5), (0.4, 0.002), (1, 0.9)]:
        t, s = at(t), at(s)
        skip, out, _ = precond.coeffs(t, s)
        exact = float(((s * s + sd**2) / (t * t + sd**2)).sqrt())
        assert float(skip) == pytest.approx(exact, rel=0.005)
        assert float(out) == pytest.approx(float(ctm.coeffs(t, s).out), rel=1e-9)


def test_one_measurement_serves_all(ring):
    kinds = [create_precond(name, sigma_data=0.5) for name in ("lsq", "moment", "balanced", "arc")]
    assert all(kind.measured == kinds[0].measured for kind in kinds)
    assert kinds[0].measured != create_precond("lsq", sigma_data=0.5, samples=64).measured
    artifact = make("lsq", ring).artifact
    adopted = create_precond("moment", sigma_data=ring.spec.sigma_data).load(artifact)
    assert float(adopted.coeffs(at(1), at(0.1)).out) > 0


def test_finer_tables_change_little(ring):
    """Interpolation error is below the sampling error that 2048 trajectories leave (2 %)."""
    coarse, fine = (
        calibrate(create_precond("moment", sigma_data=0.5), ring, levels=n, samples=2048)
        for n in (40, 79)
    )
    t, s = karras(12)[:-1], karras(12)[1:]
    scale = ((s * s + 0.25) / (t * t + 0.25)).sqrt()
    a, b = coarse.coeffs(t, s), fine.coeffs(t, s)
    assert float(((a.skip - b.skip) / scale).abs().max()) < 0.005
    assert float(((a.out - b.out) / (s * s + 0.25).sqrt()).abs().max()) < 0.01


def test_use_before_calibration_is_refused():
    with pytest.raises(RuntimeError, match="balanced has no coefficients before calibration"):
        create_precond("balanced", sigma_data=0.5).coeffs(at(1), at(0.5))
