"""Coefficients of four denoisers against their table, written once more in doubles."""

import math

import pytest
import torch

from harness.backbones.inner import EDM, IDDPM, VE, VP
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from tests.unit.edm_layout import randomise

SIGMAS = [0.002, 0.01, 0.3, 1.0, 7.0, 80.0]


def iddpm_table(M: int = 1000) -> list[float]:
    abar = [math.sin(0.5 * math.pi * j / M / 1.008) ** 2 for j in range(M + 1)]
    u = [0.0] * (M + 1)
    for j in reversed(range(1, M + 1)):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], 0.001) - 1)
    return u


def by_hand(name: str, s: float) -> tuple[float, float, float, float]:
    """(c_skip, c_out, c_in, c_noise) as the paper's table 1 has them."""
    if name == "edm":
        root = math.sqrt(s * s + 0.25)
        return 0.25 / (s * s + 0.25), s * 0.5 / root, 1 / root, math.log(s) / 4
    if name == "ve":
        return 1.0, s, 1.0, math.log(0.5 * s)
    if name == "vp":
        t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s * s)) - 0.1) / 19.9
        return 1.0, -s, 1 / math.sqrt(s * s + 1), 999 * t
    u = iddpm_table()
    index = min(range(1001), key=lambda j: abs(u[j] - s))
    return 1.0, -s, 1 / math.sqrt(s * s + 1), 999 - index


MAPS = {"edm": EDM, "vp": VP, "ve": VE, "iddpm": IDDPM}


def backbone(name: str) -> UNetBackbone:
    torch.manual_seed(0)
    inner = MAPS[name]()
    options = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    net = randomise(SongUNet(8, 3, 3 * inner.outputs, **options)).eval()
    return UNetBackbone(net, inner, 3)


@pytest.mark.parametrize("name", MAPS)
def test_denoiser_is_the_tables_formula(name):
    model = backbone(name)
    torch.manual_seed(1)
    noise = torch.randn(1, 3, 8, 8)
    for s in SIGMAS:
        x = (0.5 * torch.randn(1, 3, 8, 8) + s * noise).double()
        c_skip, c_out, c_in, c_noise = by_hand(name, s)
        with torch.no_grad():
            raw = model.net((c_in * x).float(), torch.tensor([c_noise]).float())[:, :3]
            expected = c_skip * x + c_out * raw.double()
            D = model.denoise(x, torch.tensor(s, dtype=torch.float64))
            F = model(x, torch.tensor([s], dtype=torch.float64))
        tolerance = 1e-5 * float(expected.abs().max())
        assert float((D - expected).abs().max()) < tolerance
        # the same denoiser, rebuilt from F with EDM's own coefficients
        skip, out, _, _ = by_hand("edm", s)
        assert float((skip * x + out * F.double() - expected).abs().max()) < tolerance


@pytest.mark.parametrize("name", ["vp", "ve", "iddpm"])
def test_edm_form_keeps_its_digits_at_low_noise(name):
    """At 1e-6, (1 - c_skip)/c_out as a difference of float64 keeps 5 digits; ours all of them."""
    inner = MAPS[name]()
    a, b = inner.edm_form(torch.tensor(1e-6, dtype=torch.float64))
    assert float(a) == pytest.approx(1e-6 / (0.5 * math.sqrt(0.25 + 1e-12)), rel=1e-14)
    sign = 1 if name == "ve" else -1
    assert float(b) == pytest.approx(sign * math.sqrt(0.25 + 1e-12) / 0.5, rel=1e-14)


def test_ranges_and_levels():
    assert (EDM().sigma_min, EDM().sigma_max) == (0, math.inf)
    assert (VE().sigma_min, VE().sigma_max) == (0.02, 100)
    assert VP().sigma_max == pytest.approx(math.sqrt(math.exp(19.9 / 2 + 0.1) - 1), rel=1e-12)
    assert VP().sigma_min == pytest.approx(
        math.sqrt(math.exp(0.5 * 19.9 * 1e-10 + 1e-6) - 1), rel=1e-6
    )
    levels, inner = iddpm_table(), IDDPM()
    assert len(inner.u) == 1001
    torch.testing.assert_close(
        inner.u.double(), torch.tensor(levels).double(), rtol=1e-6, atol=1e-9
    )
    assert (inner.sigma_min, inner.sigma_max) == pytest.approx((levels[999], levels[0]))


def test_rounding_snaps_to_the_nearest_level():
    inner = IDDPM()
    target = inner.u[[3, 500, 999]].double()
    moved = target * (1 + 1e-5)
    torch.testing.assert_close(inner.round_sigma(moved), target)
    assert inner.c_noise(moved).tolist() == [996, 499, 0]
    assert VP().round_sigma(moved) is moved


def test_vp_noise_number_is_exact_near_zero():
    from decimal import Decimal, getcontext

    getcontext().prec = 40
    s = Decimal("1e-7")
    root = (Decimal("0.01") + 2 * Decimal("19.9") * (1 + s * s).ln()).sqrt()
    exact = 999 * (root - Decimal("0.1")) / Decimal("19.9")
    found = VP().c_noise(torch.tensor(1e-7, dtype=torch.float64))
    assert float(found) == pytest.approx(float(exact), rel=1e-13)
