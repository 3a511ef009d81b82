"""Whatever is registered works where the networks are: on a (pretended) GPU as on the host."""

import pytest
import torch

from harness.api import (
    calibrate,
    create,
    create_precond,
    create_teacher,
    list_metrics,
    list_preconds,
)
from harness.core.lpips import LPIPS
from tests.conftest import ROOT
from tests.pretended_gpu import pretended_gpu
from tests.unit.test_lpips import weights  # noqa: F401 - a fixture

FIXTURE = ROOT / "tests/fixtures/edm/edm-imagenet-64x64-cond-adm-small.pkl"
OPENAI = ROOT / "tests/fixtures/published/edm_small_ema.pt"
TEACHERS = {
    "gmm": {},
    "unet": {},
    "edm": {"weights": str(FIXTURE)},
    "openai": {"weights": str(OPENAI), "resolution": 16, "head_channels": 32},
    "empirical": {"dataset": {"name": "digits", "params": {"labels": True}}, "bandwidth": 0.1},
    "patches": {"side": 3, "components": 2, "crops": 100, "form": "image"},
    "diffusers": {"folder": "pipeline"},
}


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_denoise(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "diffusers":
        pytest.importorskip("diffusers")
        from tests.unit.test_diffusers_teacher import save

        save(tmp_path / "pipeline")
    teacher = create_teacher(name, **TEACHERS[name])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *teacher.spec.shape, generator=generator)
    sigma = torch.tensor([0.01, 1.0, 70.0], dtype=torch.float64)
    labels = torch.eye(teacher.spec.classes)[:3] if teacher.spec.classes else None
    expected = teacher.denoise(x, sigma, labels)
    with pretended_gpu() as gpu:
        there = None if labels is None else labels.to(gpu)
        found = teacher.to(gpu).denoise(x.to(gpu), sigma.to(gpu), there)
        assert found.device == gpu
        found = found.cpu()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "params"),
    [*((name, {}) for name in list_preconds()), ("analytic", {"statistics": "jvp"})],
)
def test_preconditionings_are_measured_there_and_give_coefficients_there(name, params):
    """Calibrated on the device, or on the host and sent there: the same coefficients."""
    teacher, samples = create_teacher("gmm"), 1024 if name == "spectral" else 32
    t = torch.linspace(0.01, 79, 9, dtype=torch.float64)
    s = t * torch.linspace(0, 1, 9, dtype=torch.float64).clamp_min(0.2)
    host = create_precond(name, sigma_data=teacher.spec.sigma_data, **params)
    calibrate(host, teacher, levels=12, samples=samples)
    expected = [*host.coeffs(t, s)[:2], host.conditioning_sigma(t, s)]
    with pretended_gpu() as gpu:
        there = create_precond(name, sigma_data=teacher.spec.sigma_data, **params)
        calibrate(there, teacher.to(gpu), levels=12, samples=samples, device=gpu)
        for precond in (there.to(gpu), host.to(gpu)):
            t, s = t.to(gpu), s.to(gpu)
            found = [*precond.coeffs(t, s)[:2], precond.conditioning_sigma(t, s)]
            for a, b in zip(found, expected, strict=True):
                assert a.device == gpu
                assert torch.allclose(a.cpu(), b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", [name for name in list_metrics() if create("metric", name).needs == "features"]
)
def test_metrics_compare_features_there(name):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 4, generator=generator) for n in (40, 60))
    metric = create("metric", name)
    expected = metric.compute(a, b)
    with pretended_gpu() as gpu:
        found = metric.compute(a.to(gpu), b.to(gpu))
    values = [getattr(score, "value", score) for score in (found, expected)]
    assert values[0] == pytest.approx(values[1])


def test_lpips_measures_there(weights):  # noqa: F811
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 32, 32, generator=generator) for _ in "ab")
    lpips = LPIPS("average").load(weights["lpips_trunk"], weights["lpips_heads"])
    with torch.no_grad():
        expected = lpips(a, b)
    with pretended_gpu() as gpu, torch.no_grad():
        found = lpips.to(gpu)(a.to(gpu), b.to(gpu)).cpu()
    assert torch.allclose(found, expected)
