"""Coefficients by band: exact for Gaussians of any covariance, scalar where there is one band."""

import math

import pytest
import torch

from harness.api import (
    Basis,
    Coeffs,
    ConfigError,
    Preconditioning,
    calibrate,
    create,
    create_precond,
    create_teacher,
)
from harness.contract import ContractError, refuse_broken
from harness.core.student import Student
from harness.evaluate.gap import measure_gaps
from harness.report.coefficients import same_function
from harness.train.coefficients import fingerprint
from preconds.calibration.spectrum import LEAST, cosines, merged, of_band

LEVELS = torch.tensor([80.0, 5.84, 0.965, 0.04], dtype=torch.float64)


def preconditioning(name, teacher, like=None, **params):
    made = create_precond(name, sigma_data=teacher.spec.sigma_data, **params)
    return made.load(like.artifact) if like else calibrate(made, teacher, samples=LEAST)


@pytest.fixture(scope="module", params=["vector", "image"])
def patches(request):
    """Natural-image patches: variances of directions from 70 to .0002."""
    teacher = create_teacher(
        "patches", form=request.param, side=4, components=4, channels=3, crops=1000
    )
    return teacher, preconditioning("spectral", teacher)


@pytest.mark.parametrize("rule", ["arc", "moment", "variance"])
def test_exact_before_training_for_a_gaussian_of_any_covariance(rule):
    teacher = create_teacher("patches", side=3, components=1, crops=500)
    spectral = preconditioning("spectral", teacher, rule=rule, bands=64)  # one for each direction
    arc = preconditioning("arc", teacher, like=spectral)
    assert max(spectral.deviations) > 3 * min(spectral.deviations)
    both = {"spectral": spectral, "arc": arc}
    gaps = measure_gaps(both, teacher, teacher.dataset(), LEVELS, samples=256)
    error = {
        name: max(gap.untrained for (of, _, _), gap in gaps.items() if of == name) for name in both
    }
    # what is left is that directions are measured, on 1024 samples
    assert 10 * error["spectral"] < error["arc"], error


def test_moments_of_all_groups_are_those_that_arc_and_moment_read(patches):
    teacher, spectral = patches
    everything = torch.ones(len(spectral.artifact["sizes"]), dtype=torch.bool)
    found = of_band(spectral.artifact, everything, teacher.spec.sigma_data)
    for name, value in found.items():
        known = spectral.artifact[name]
        assert torch.allclose(value, known, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize(("rule", "name"), [("arc", "arc"), ("moment", "moment")])
def test_one_band_is_the_preconditioning_of_its_rule(patches, rule, name):
    teacher, spectral = patches
    one = preconditioning("spectral", teacher, like=spectral, rule=rule, bands=1)
    scalar = preconditioning(name, teacher, like=spectral)
    assert one.basis is None
    t, s = LEVELS[:-1], LEVELS[1:]
    for a, b in zip(one.coeffs(t, s), scalar.coeffs(t, s), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)
    assert same_function(fingerprint(one), fingerprint(scalar))
    assert not same_function(fingerprint(spectral), fingerprint(scalar))


def test_the_error_before_training_is_half_of_the_best_scalar_one_on_natural_images(patches):
    teacher, spectral = patches
    named = {
        "spectral": spectral,
        "ctm": create_precond("ctm", sigma_data=teacher.spec.sigma_data),
        "arc": preconditioning("arc", teacher, like=spectral),
    }
    levels = torch.tensor([80.0, 0.002], dtype=torch.float64)
    gaps = measure_gaps(named, teacher, teacher.dataset(), levels, samples=500)
    error = {name: gap.untrained for (name, _, _), gap in gaps.items()}
    assert error["spectral"] < 0.65 * min(error["ctm"], error["arc"])


class Silent(torch.nn.Module):
    """A network of one number, with a derivative along x and t."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t, s=None, labels=None):
        rate = torch.log(t).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        return self.scale * torch.sin(x + rate)


def test_jumps_denoiser_and_derivatives_of_a_student(patches):
    teacher, spectral = patches
    student = Student(Silent(), spectral)
    x = torch.randn(5, *teacher.spec.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    t = torch.tensor([3.0, 1.0, 0.5, 20.0, 0.1], dtype=torch.float64)
    # the boundary, to rounding of the basis
    assert torch.allclose(student.jump(x, t, t), x, atol=1e-12)
    # the implied denoiser is the slope of the jump; a tangent preconditioning has EDM's
    h = 1e-6
    slope = (x - student.jump(x, t, t * (1 - h))) / h  # = s df/ds
    assert torch.allclose(student.denoise(x, t), x - slope, atol=2e-5)
    # derivatives along (x, t) are those of differences
    s, dx, dt = t / 4, torch.randn_like(x), 0.1 * t
    with torch.no_grad():
        found = student.jump_tangent(x, t, s, dx, dt)
        ahead, behind = (student.jump(x + k * dx, t + k * dt, s) for k in (1e-5, -1e-5))
    assert torch.allclose(found.value, student.jump(x, t, s))
    assert torch.allclose(found.carried + found.changed, (ahead - behind) / 2e-5, atol=1e-6)
    # gradients reach the network
    (grad,) = torch.autograd.grad(student.jump(x, t, s).sum(), [student.backbone.scale])
    assert float(grad.abs()) > 0


def test_equal_bands_are_a_scalar(patches):
    """Coefficients that are the same in all bands multiply x and F as one number does."""
    teacher, spectral = patches
    ctm = create_precond("ctm", sigma_data=teacher.spec.sigma_data)

    class Equal(type(ctm)):
        basis = spectral.basis

        def coeffs(self, t, s):
            parts = super().coeffs(t, s)
            wide = (p if p is None else p[..., None].expand(*p.shape, 16) for p in parts)
            return Coeffs(*wide)

    x = torch.randn(4, *teacher.spec.shape, generator=torch.manual_seed(0))
    t = torch.full((4,), 5.0, dtype=torch.float64)
    equal = Equal(sigma_data=teacher.spec.sigma_data)
    a, b = (Student(Silent(), p).jump(x, t, t / 9) for p in (equal, ctm))
    assert torch.allclose(a, b, atol=1e-5)
    implied = Preconditioning.denoiser_coeffs(equal, t)  # not ctm's closed form
    for wide, one in zip(implied[:2], ctm.denoiser_coeffs(t)[:2], strict=True):
        assert torch.allclose(wide[:, 3], one)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_cosines_are_orthonormal(count):
    assert torch.allclose(cosines(count) @ cosines(count).T, torch.eye(count).double(), atol=1e-13)


def test_groups_are_merged_by_variance_until_bands_have_enough_values():
    variance, sizes = torch.tensor([1.0, 9.0, 1.1, 1e-9, 1e-8]), torch.tensor([1, 1, 1, 1, 1])
    assert merged(variance, sizes, LEAST, 16, 1e-6).tolist() == [2, 0, 1, 4, 3]
    assert merged(variance, sizes, LEAST, 3, 1e-6).tolist() == [1, 0, 1, 2, 2]
    assert merged(variance, sizes, LEAST // 2, 16, 1e-6).unique().tolist() == [0, 1]
    assert merged(variance, sizes, LEAST // 5, 16, 1e-6).unique().tolist() == [0]


def test_a_basis_that_is_none_is_refused():
    eye, bands = torch.eye(3).double(), torch.tensor([0, 1, 1])
    assert Basis([eye], bands).sizes.tolist() == [1, 2]
    with pytest.raises(ConfigError, match=r"matrix 0 is not orthonormal, U U\^T is 3.0e\+00 from"):
        Basis([2 * eye], bands)
    with pytest.raises(ConfigError, match="samples of shape \\[3\\], the matrices are \\(2, 2\\)"):
        Basis([torch.eye(2).double()], bands)
    with pytest.raises(ConfigError, match=r"do not cover .* hold \[1, 0, 2\] coordinates"):
        Basis([eye], 2 * bands)


def test_what_does_not_fit_is_refused_before_training(patches):
    teacher, spectral = patches
    refuse_broken(spectral, shape=teacher.spec.shape)
    with pytest.raises(ContractError, match=r"its basis is for samples of shape .*, the data"):
        refuse_broken(spectral, shape=(7,))
    few = spectral.artifact | {"trajectories": torch.tensor(8)}
    with pytest.raises(ConfigError, match="8 trajectories of 48 coordinates are too few for two"):
        create_precond("spectral", sigma_data=0.5).load(few)


def test_coefficients_of_a_run_have_a_list_for_every_band(patches):
    _, spectral = patches
    found = fingerprint(spectral)
    total = sum(band["coordinates"] for band in found["bands"])
    assert total == math.prod(spectral.basis.shape)
    for k in (0, 30):
        mean = sum(band["coordinates"] * band["skip"][k] for band in found["bands"]) / total
        assert found["skip"][k] == pytest.approx(mean)


def test_a_loss_may_weigh_every_band_by_the_variance_of_clean_data(patches):
    teacher, spectral = patches
    basis, sd = spectral.basis, teacher.spec.sigma_data
    a, b = torch.randn(2, 8, *teacher.spec.shape, generator=torch.Generator().manual_seed(0))
    objective = create("objective", "ctm", {"bands": "whitened"})
    loss = objective.distance
    t = torch.ones(8, dtype=torch.float64)
    error = basis.coordinates(a - b).square().flatten(1)
    variance = torch.tensor(spectral.deviations)[basis.bands].square().flatten()
    wanted = float((error * sd**2 / variance).mean())
    assert float(loss(a, b, t, sd, Student(None, spectral))) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ConfigError, match="this one has none; give this objective to spectral"):
        loss(a, b, t, sd, None)
    assert objective.unsuited(teacher.spec, spectral) == ""
    plain = create_precond("ctm", sigma_data=sd)
    assert "has no bands of a basis" in objective.unsuited(teacher.spec, plain)


def test_directions_of_other_samples_have_the_variance_that_is_measured_along_them():
    """Chosen on the samples themselves, the last directions look finer than they are."""
    teacher = create_teacher("patches")
    fresh, _ = teacher.dataset().draw(1, "fresh", torch.arange(2000))
    fresh = fresh.double() - fresh.double().mean(0)

    def off(**params):
        spectral = create_precond("spectral", sigma_data=teacher.spec.sigma_data, **params)
        calibrate(spectral, teacher, levels=8, samples=512)
        z = spectral.basis.coordinates(fresh).square().mean(0)
        last = spectral.basis.bands == spectral.basis.count - 1
        return float(z[last].mean().sqrt() / spectral.basis.deviations[-1])

    assert off() > 2
    assert off(directions=8192) == pytest.approx(1, abs=0.1)
