"""The mathematics of every preconditioning, over random noise levels and random curves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import create_precond, edm_inner

levels = st.tuples(st.floats(math.log(0.002), math.log(80)), st.floats(0.0, 1.0)).map(
    lambda pair: _pair(*pair)
)
sigma_data = st.floats(0.05, 3.0)
HAND_MADE = [
    ("edm", {}),
    ("bcm", {}),
    ("ctm", {}),
    ("ctm", {"outer": "variance"}),
    ("ctm", {"outer": "mixed"}),
    ("ctm", {"inner": "s"}),
]


def _pair(log_t, part):
    t = math.exp(log_t)
    s = math.exp(log_t + part * (math.log(0.002) - log_t))
    return torch.tensor([t], dtype=torch.float64), torch.tensor([min(s, t)], dtype=torch.float64)


def curves(l, slope, levels=60):
    """An artifact with the given l(lambda) and d log S/dlambda = -slope(lambda)."""
    lam = torch.linspace(-math.log(80), -math.log(0.002), levels, dtype=torch.float64)
    s = torch.tensor([slope(float(x)) for x in lam], dtype=torch.float64)
    log_S = -torch.cat([s.new_zeros(1), torch.cumulative_trapezoid(s, lam)])
    return {
        "sigma": (-lam).exp(),
        "l": torch.tensor([l(float(x)) for x in lam], dtype=torch.float64),
        "log_S": log_S,
    }


@pytest.mark.parametrize(("name", "params"), HAND_MADE)
@given(levels, sigma_data)
def test_boundary_is_exact(name, params, pair, sd):
    t, _ = pair
    skip, out, _ = create_precond(name, sigma_data=sd, **params).coeffs(t, t)
    assert float(skip) == 1
    assert float(out) == 0


@given(levels, sigma_data)
def test_ctm_and_bcm_are_one_function(pair, sd):
    ctm = create_precond("ctm", sigma_data=sd).coeffs(*pair)
    bcm = create_precond("bcm", sigma_data=sd).coeffs(*pair)
    assert float((ctm.skip - bcm.skip).abs()) < 1e-12
    assert float((ctm.out - bcm.out).abs()) < 1e-12


@given(levels, sigma_data)
def test_the_table_of_hand_made_preconditionings(pair, sd):
    """Each row of the table, written out independently with plain floats."""
    t, s = float(pair[0]), float(pair[1])
    smin = 0.002
    c_skip, c_out = sd**2 / (t**2 + sd**2), t * sd / math.sqrt(t**2 + sd**2)
    V = math.sqrt(((s - smin) ** 2 + sd**2) / ((t - smin) ** 2 + sd**2))
    alpha = 1 - s / t
    expected = {
        ("edm", ""): (sd**2 / ((t - s) ** 2 + sd**2), sd * (t - s) / math.sqrt(t**2 + sd**2)),
        ("ctm", "euler"): (s / t + alpha * c_skip, alpha * c_out),
        ("ctm", "variance"): (V + alpha * c_skip, alpha * c_out),
        ("ctm", "mixed"): ((s + V) / (t + 1) + alpha * c_skip, alpha * c_out),
    }
    for (name, outer), (skip, out) in expected.items():
        params = {"outer": outer} if outer else {}
        found = create_precond(name, sigma_data=sd, **params).coeffs(*pair)
        assert float(found.skip) == pytest.approx(skip, rel=1e-12, abs=1e-14)
        assert float(found.out) == pytest.approx(out, rel=1e-12, abs=1e-14)


@given(levels, sigma_data)
def test_analytic_with_l_1_and_s_0_is_ctm(pair, sd):
    for form, inner in (("backward", "t"), ("forward", "t"), ("backward", "s")):
        ctm = create_precond("ctm", sigma_data=sd, inner=inner).coeffs(*pair)
        flat = curves(lambda x: 1.0, lambda x: 0.0)
        chosen = {"form": form, "inner": inner, "told": inner}
        found = create_precond("analytic", sigma_data=sd, **chosen).load(flat).coeffs(*pair)
        assert float((found.skip - ctm.skip).abs()) < 1e-9
        assert float((found.out - ctm.out).abs()) < 1e-9 * max(1, sd)


@given(levels)
def test_forward_form_with_l_0_and_s_minus_1_is_ctm(pair):
    ctm = create_precond("ctm", sigma_data=0.5).coeffs(*pair)
    artifact = curves(lambda x: 0.0, lambda x: -1.0)
    found = create_precond("analytic", sigma_data=0.5, form="forward").load(artifact).coeffs(*pair)
    assert float((found.skip - ctm.skip).abs()) < 1e-8
    assert float((found.out - ctm.out).abs()) < 1e-8


@settings(max_examples=30)
@given(
    levels,
    st.floats(0.1, 0.9),
    st.floats(-0.09, 0.09),
    st.floats(-1.5, 1.5),
    st.floats(-0.2, 0.2),
    st.floats(-1, 1),
)
def test_analytic_solves_the_frozen_ode(pair, a, b, c, d, y):
    """Against an independent fine integration of the equation the derivation discretises.

    d(L x)/dlambda = L g with S g frozen, g = D - (1 - l) x: with y the frozen S g, integrate
    z' = (L/S) y from z = L_t x_t numerically, with L and S from closed-form integrals of
    l = a + b sin(lambda) and s = c + d cos(lambda). Forward: y is known. Backward: y must equal
    S_s (D - (1 - l_s) x_s) for the x_s that comes out.
    """
    t, s = pair
    start, stop = -math.log(float(t)), -math.log(float(s))

    def trace(x):
        return a + b * math.sin(x)

    def log_L(x):
        return a * x - b * math.cos(x)

    def log_S(x):
        return -(c * x + d * math.sin(x))

    n = 4000
    width = (stop - start) / n
    middles = [start + (k + 0.5) * width for k in range(n)]
    integral = width * sum(math.exp(log_L(u) - log_S(u)) for u in middles)
    x_t, D = 1.3, y
    artifact = curves(trace, lambda x: c + d * math.cos(x), levels=240)

    frozen = math.exp(log_S(start)) * (D - (1 - trace(start)) * x_t)
    x_s = (math.exp(log_L(start)) * x_t + frozen * integral) / math.exp(log_L(stop))
    forward = create_precond("analytic", sigma_data=0.5, form="forward").load(artifact)
    alpha, beta = forward.outer(t, s)
    assert float(beta * x_t + alpha * D) == pytest.approx(x_s, rel=2e-3, abs=1e-3)

    backward = create_precond("analytic", sigma_data=0.5).load(artifact)
    alpha, beta = backward.outer(t, s)
    x_s = float(beta * x_t + alpha * D)
    frozen = math.exp(log_S(stop)) * (D - (1 - trace(stop)) * x_s)
    found = (math.exp(log_L(start)) * x_t + frozen * integral) / math.exp(log_L(stop))
    assert found == pytest.approx(x_s, rel=2e-3, abs=1e-3)


@given(levels, st.floats(0.2, 2.0), st.floats(-2.0, 2.0))
def test_gaussian_data_forward_form_is_exact_for_any_S(pair, sd, slope):
    """g = 0 for N(0, sd^2): whatever S is, f = sqrt((s^2 + sd^2)/(t^2 + sd^2)) x."""
    t, s = pair
    artifact = curves(
        lambda x: math.exp(-2 * x) / (math.exp(-2 * x) + sd**2), lambda x: slope, levels=480
    )
    precond = create_precond("analytic", sigma_data=sd, form="forward").load(artifact)
    alpha, beta = precond.outer(t, s)
    jump = float(beta + alpha * sd**2 / (t**2 + sd**2))
    exact = math.sqrt((float(s) ** 2 + sd**2) / (float(t) ** 2 + sd**2))
    # c may be huge here, and then multiplies the interpolation error of the 480-level curve
    assert jump == pytest.approx(exact, rel=1e-4, abs=2e-5 * (1 + float(alpha.abs())))


@pytest.mark.parametrize("centre", [False, True])
def test_centred_jump_is_the_jump_around_the_mean(centre):
    artifact = curves(lambda x: 0.6, lambda x: -1.0)
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    precond = create_precond("analytic", sigma_data=0.5, centre=centre)
    precond.load({**artifact, "log_S_centred": artifact["log_S"], "offset": mean})
    t, s = torch.tensor([3.0]).double(), torch.tensor([0.4]).double()
    x, F = torch.tensor([1.0, 2.0]).double(), torch.tensor([-0.5, 0.7]).double()
    skip, out, shift = precond.coeffs(t, s)
    found = skip * x + out * F + (0 if shift is None else shift * precond.offset)
    alpha, beta = precond.outer(t, s)
    c_skip, c_out = edm_inner(t, 0.5)
    m = mean if centre else torch.zeros(2).double()
    expected = m + beta * (x - m) + alpha * (c_skip * x + c_out * F - m)
    assert torch.allclose(found, expected, atol=1e-12)
    assert (shift is not None) == centre
