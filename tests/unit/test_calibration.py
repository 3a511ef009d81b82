"""Measured curves and coefficients against reference values, closed forms and each other."""

import json
import math
from pathlib import Path

import pytest
import torch

from harness.api import calibrate, create_precond, create_teacher, edm_inner
from harness.core.probe import Probe, standard_error
from harness.core.schedule import karras
from harness.errors import HarnessError

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures/reference_values.json").read_text())


def at(value):
    return torch.tensor([float(value)], dtype=torch.float64)


@pytest.fixture(scope="module")
def ring():
    return create_teacher("gmm", preset="ring")


@pytest.fixture(scope="module")
def analytic(ring):
    return calibrate(create_precond("analytic", sigma_data=ring.spec.sigma_data), ring)


@pytest.mark.parametrize(
    "row", REFERENCE["backward_coefficients"], ids=lambda r: f"{r['t']}-{r['s']}"
)
def test_ring_coefficients_match_the_reference(analytic, row):
    alpha, _ = analytic.outer(at(row["t"]), at(row["s"]))
    assert float(alpha) == pytest.approx(row["alpha"], rel=0.02)
    skip, out, _ = analytic.coeffs(at(row["t"]), at(row["s"]))
    c_skip, c_out = edm_inner(at(row["t"]), analytic.sigma_data)
    assert float(out / c_out) == pytest.approx(row["alpha"], rel=0.02)
    beta = float(skip - (out / c_out) * c_skip)
    assert beta == pytest.approx(row["beta"], rel=0.03, abs=2e-6)


def test_ring_curves_match_the_reference(analytic):
    zero = float(analytic.curves.at(at(0.4)).log_S)
    for row in REFERENCE["curve"]:
        point = analytic.curves.at(at(row["t"]))
        assert float(point.l) == pytest.approx(row["l"], abs=0.01)
        assert float(point.log_S) - zero == pytest.approx(row["log_S"], abs=0.08)


def counting(teacher, sizes):
    """The teacher, with a hook that notes the size of every batch it denoises."""

    class Counted(type(teacher)):
        def denoise(self, x, sigma, labels=None):
            sizes.append(len(x))
            assert not torch.is_grad_enabled()
            return super().denoise(x, sigma, labels)

    return Counted(teacher.params)


def test_cost_by_hook(ring):
    """Published: 120 levels of 4096 samples; here one more level for the mean. jvp: 3.5 times."""
    counts = {}
    for statistics in ("moments", "stein", "jvp"):
        sizes: list[int] = []
        precond = create_precond("analytic", sigma_data=0.5, statistics=statistics)
        calibrate(precond, counting(ring, sizes))
        counts[statistics] = sum(sizes)
        assert float(precond.artifact["evaluations"]) == sum(sizes)
        assert precond.calibration_evaluations() == sum(sizes)
        assert float(precond.artifact["seconds"]) > 0
    assert counts["moments"] == counts["stein"] == 121 * 4096
    assert counts["jvp"] <= 3.5 * counts["moments"]
    sizes = []
    precond = create_precond("lsq", sigma_data=0.5)
    calibrate(precond, counting(ring, sizes))
    assert precond.calibration_evaluations() == sum(sizes) < counts["moments"]


@pytest.mark.parametrize(("name", "tolerance"), [("analytic", 0.01), ("arc", 0.05)])
def test_with_a_tolerance_it_ends_when_it_knows(name, tolerance, ring):
    """No jump is off by more than four standard errors; what cannot be reached measures all."""

    def measured(**params):
        made = create_precond(name, sigma_data=ring.spec.sigma_data, **params)
        return calibrate(made, ring)

    levels = karras(18)
    t, s = levels[torch.triu_indices(18, 18, 1)]
    size, before = ((x * x + ring.spec.sigma_data**2).sqrt() for x in (s, t))
    whole, early, never = measured(), measured(tolerance=tolerance), measured(tolerance=1e-12)
    spent = {each: float(each.artifact["evaluations"]) for each in (whole, early, never)}
    assert spent[early] < spent[whole] / 3
    assert spent[never] == spent[whole]
    assert float(early.artifact["standard_error"]) <= tolerance
    assert float(never.artifact["standard_error"]) > 1e-12
    for other, most in ((early, 4 * tolerance), (never, 1e-8)):
        skip = (other.coeffs(t, s).skip - whole.coeffs(t, s).skip) * before / size
        out = (other.coeffs(t, s).out - whole.coeffs(t, s).out) / size
        assert max(skip.abs().max(), out.abs().max()) < most


@pytest.mark.parametrize("name", ["analytic", "arc"])
def test_a_teacher_without_numbers_is_named_with_a_tolerance_too(name, ring):
    class Broken(type(ring)):
        def denoise(self, x, sigma, labels=None):
            return super().denoise(x, sigma, labels) * math.nan

    precond = create_precond(name, sigma_data=0.5, tolerance=0.01, samples=512)
    with pytest.raises(HarnessError, match="not finite"):
        calibrate(precond, Broken(ring.params))


def test_the_jackknife_is_the_error_of_a_mean():
    """Groups of equal size, what follows their mean: its textbook standard error."""
    means = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    groups = [{"x": 5 * m, "samples": torch.tensor(5.0)} for m in means]
    found = standard_error(groups, lambda sums: (sums["x"] / sums["samples"])[None])
    assert found == pytest.approx(float(means.std()) / 2)
    assert standard_error(groups[:2], lambda sums: sums["x"][None]) == math.inf


@pytest.mark.parametrize(("name", "params"), [("analytic", {"statistics": "jvp"}), ("lsq", {})])
def test_batches_do_not_grow_with_the_samples(name, params, ring):
    for samples in (300, 30_000, 90_000):
        sizes: list[int] = []
        precond = create_precond(name, sigma_data=0.5, **params)
        calibrate(precond, counting(ring, sizes), levels=4, samples=samples)
        assert max(sizes) <= min(samples / 10, 1024)


def test_difference_quotients_are_the_teachers_jacobian():
    """Against forward-mode differentiation, for a network, whose arithmetic is float32."""
    teacher = create_teacher("unet")
    probe = Probe(teacher, teacher.dataset(), levels=4, samples=4)
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.05, 1.0, 20.0):
        t = torch.tensor(t, dtype=torch.float64)
        with torch.no_grad():
            ahead = teacher.denoise(x * t, t) - x * t
            found = probe.slope(x * t, t, ahead, 1.0)
            exact = torch.func.jvp(teacher.denoise, (x * t, t), (ahead, -t))[1]
        assert float((found - exact).norm() / exact.norm()) < 2e-3


def test_moments_and_jvp_agree_between_0_003_and_5(ring):
    curves = []
    t = torch.logspace(math.log10(0.003), math.log10(5), 60, dtype=torch.float64)
    for statistics in ("moments", "jvp"):
        precond = create_precond("analytic", sigma_data=0.5, statistics=statistics)
        curves.append(calibrate(precond, ring, samples=8192).curves.at(t))
    a, b = curves
    drift = (a.log_S - a.log_S[30]) - (b.log_S - b.log_S[30])
    assert float(drift.abs().max()) < 0.05
    assert float((a.l - b.l).abs().max()) < 0.02


def test_the_ratio_form_beats_the_textbook_one_at_small_noise(ring):
    """1 - l is nearly 1 there, and what <eps, eps> misses of its mean is all of the error."""
    errors = {}
    for statistics in ("moments", "stein"):
        precond = create_precond("analytic", sigma_data=0.5, statistics=statistics)
        calibrate(precond, ring, samples=256, levels=40)
        trace = 1 - precond.artifact["l"][-1]
        errors[statistics] = abs(float(trace) - (1 - REFERENCE["curve"][-1]["l"]))
    assert errors["moments"] < 2e-4
    assert errors["stein"] > 2 * errors["moments"]


@pytest.mark.parametrize("statistics", ["moments", "jvp"])
def test_gaussian_data_in_closed_form(statistics):
    """l = t^2/(t^2 + sd^2); g = 0, so S is arbitrary and said to be so; forward form exact."""
    sd = 0.7
    teacher = create_teacher("gmm", means=[[0.0, 0.0, 0.0]], stds=[sd])
    assert teacher.spec.sigma_data == pytest.approx(sd)
    precond = create_precond("analytic", sigma_data=sd, form="forward", statistics=statistics)
    calibrate(precond, teacher, samples=512, levels=240)
    sigma = precond.artifact["sigma"]
    exact = sigma**2 / (sigma**2 + sd**2)
    assert float((precond.artifact["l"] - exact).abs().max()) < 1e-9
    assert float(precond.artifact["flat"].min()) == 1
    for t, s in [(80, 0.002), (80, 2.5), (2.5, 0.3), (0.4, 0.39), (1, 0.002)]:
        alpha, beta = precond.outer(at(t), at(s))
        jump = float(beta + alpha * sd**2 / (t**2 + sd**2))
        assert jump == pytest.approx(math.sqrt((s**2 + sd**2) / (t**2 + sd**2)), rel=1e-3)


def test_gaussian_data_forward_form_to_1e_6_on_a_fine_grid():
    sd = 0.5
    teacher = create_teacher("gmm", means=[[0.0]], stds=[sd])
    precond = create_precond("analytic", sigma_data=sd, form="forward")
    calibrate(precond, teacher, samples=8, levels=3000)
    for t, s in [(80, 0.002), (80, 2.5), (2.5, 0.3), (1, 0.002), (0.05, 0.01)]:
        alpha, beta = precond.outer(at(t), at(s))
        jump = float(beta + alpha * sd**2 / (t**2 + sd**2))
        exact = math.sqrt((s**2 + sd**2) / (t**2 + sd**2))
        assert jump == pytest.approx(exact, rel=1e-6 * max(1.0, float(alpha)))


def test_moments_match_the_exact_posterior_variance(ring):
    """For the exact denoiser 1 - l = E tr Cov(x_0 | x_t) / (d t^2), and 0 <= 1 - l <= prior's."""
    precond = create_precond("analytic", sigma_data=ring.spec.sigma_data)
    calibrate(precond, ring, levels=12, samples=4096)
    numbers = torch.arange(40_000)
    x0, _ = ring.dataset().draw(9, "check", numbers)
    from harness.core.random import normal

    eps = normal(9, "check noise", 0, numbers, (2,), torch.float64)
    for t, l in zip(precond.artifact["sigma"], precond.artifact["l"], strict=True):
        x = x0.double() + t * eps
        error = (x0.double() - ring.denoise(x, t)).square().mean()
        var = ring.spec.sigma_data**2
        assert float(1 - l) <= var / (var + float(t) ** 2) * 1.02
        assert float(1 - l) == pytest.approx(float(error / t**2), rel=0.04)


def test_centring_restores_the_growth_of_S_off_centre():
    """Shifted data: S is flat at high noise unless centred; centred, it is the unshifted one."""
    shifted = create_teacher("gmm", centre=[0.9, 0.9])
    home = create_teacher("gmm")
    sd = home.spec.sigma_data
    plain = calibrate(create_precond("analytic", sigma_data=sd), shifted, samples=1024)
    centred = calibrate(
        create_precond("analytic", sigma_data=sd, centre=True), shifted, samples=1024
    )
    ideal = calibrate(create_precond("analytic", sigma_data=sd), home, samples=1024)
    pair = at(80), at(2.5152)
    assert float(plain.outer(*pair)[0]) > 0.9  # nearly ctm's 0.969
    assert float(centred.outer(*pair)[0]) == pytest.approx(float(ideal.outer(*pair)[0]), rel=0.05)
    assert plain.offset is None
    assert torch.allclose(centred.offset, torch.tensor([0.9, 0.9]).double(), atol=1e-7)
    t = torch.logspace(math.log10(0.002), math.log10(80), 50, dtype=torch.float64)
    growth = centred.curves.at(t).log_S - ideal.curves.at(t).log_S
    assert float((growth - growth[20]).abs().max()) < 0.05
    assert plain.measured == centred.measured  # one measurement serves both


def test_the_mean_of_a_network_teacher_is_near_that_of_its_data():
    """Digits are mostly -1: a mean of RMS 0.65, which the teacher knows to a seventh of that."""
    teacher = create_teacher("unet")
    precond = create_precond("analytic", sigma_data=0.5, centre=True)
    calibrate(precond, teacher, levels=8, samples=64)
    data = torch.from_numpy(teacher.dataset().items()[0].mean(0)).double()
    error = (precond.offset - data).square().mean().sqrt()
    assert float(data.square().mean().sqrt()) > 0.6
    assert float(error) < 0.1


def test_uncalibrated_use_is_refused():
    precond = create_precond("analytic", sigma_data=0.5)
    with pytest.raises(RuntimeError, match="before calibration"):
        precond.coeffs(at(1), at(0.5))
