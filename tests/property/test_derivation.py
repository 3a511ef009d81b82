"""Analytic-Precond's coefficients against their derivation, done anew: symbols and integration."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from harness.api import create_precond

LEVELS = 40
START, STOP = -math.log(80), -math.log(0.002)


@st.composite
def jumps(draw):
    """Random curves l and log S at every level (nothing smooth about them), and t > s."""
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    l = np.clip(0.5 + 0.3 * np.cumsum(rng.standard_normal(LEVELS)) / 3, 0, 1)
    slope = draw(st.floats(-3, 3))
    log_S = slope * np.linspace(0, 1, LEVELS) + np.cumsum(rng.standard_normal(LEVELS)) * 0.3
    start = draw(st.floats(START, STOP - 0.05))
    stop = draw(st.floats(start + 0.01, min(STOP, start + 5)))
    curve = torch.linspace(START, STOP, LEVELS, dtype=torch.float64)
    artifact = {"sigma": (-curve).exp(), "l": torch.from_numpy(l), "log_S": torch.from_numpy(log_S)}
    return artifact, start, stop


def read(precond, lam):
    point = precond.curves.at(torch.tensor([math.exp(-lam)], dtype=torch.float64))
    return float(point.l), math.exp(float(point.log_S))


def frozen(precond, x, held, start, stop):
    """x at `stop` by dx/dlambda = held/S - l x, which is d(L x) = held d eta without L or eta.

    Step by step between the knots of l and S, where the right-hand side is smooth.
    """

    def slope(lam, x, a, b):
        # inside the sub-interval on both sides: the ends belong to two of them
        l, S = read(precond, min(max(lam, a + 1e-12), b - 1e-12))
        return held / S - l * x

    knots = [float(k) for k in precond.curves.lam if start < k < stop]
    for ends in itertools.pairwise([start, *knots, stop]):
        solved = solve_ivp(slope, ends, [x], "DOP853", args=ends, rtol=1e-10, atol=1e-12)
        x = solved.y[0, -1]
    return x


@settings(max_examples=12)
@given(
    jumps(),
    st.sampled_from(["forward", "backward"]),
    st.sampled_from(["form", "t", "s"]),
    st.sampled_from(["form", "t", "s"]),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_coefficients_solve_the_discretised_ode(jump, form, S_at, l_at, x, D):
    """beta x + alpha D is where the ODE with S g frozen leads, for every way of reading S and l."""
    artifact, start, stop = jump
    precond = create_precond("analytic", sigma_data=0.5, form=form, S_at=S_at, l_at=l_at)
    precond.load(artifact)
    t, s = (torch.tensor([math.exp(-lam)], dtype=torch.float64) for lam in (start, stop))
    alpha, beta = (float(value) for value in precond.outer(t, s))
    end = beta * x + alpha * D
    own = "t" if form == "forward" else "s"
    curves = {"t": read(precond, start), "s": read(precond, stop)}
    l, S = curves[own if l_at == "form" else l_at][0], curves[own if S_at == "form" else S_at][1]
    held = S * (D - (1 - l) * (x if own == "t" else end))
    scale = 1 + abs(held) + abs(alpha)
    assert frozen(precond, x, held, start, stop) == pytest.approx(end, rel=1e-6, abs=1e-6 * scale)


def test_the_generalised_ode_is_the_teachers_ode():
    """d(L x)/dlambda = L g and d(L x)/d eta = S g, for any functions l and s of lambda."""
    lam, u, d = sp.symbols("lambda u D")
    l, s, x = sp.Function("l"), sp.Function("s"), sp.Function("x")
    L = sp.exp(sp.Integral(l(u), (u, 0, lam)))
    S = sp.exp(-sp.Integral(s(u), (u, 0, lam)))
    moved = sp.diff(L * x(lam), lam).subs(sp.Derivative(x(lam), lam), d - x(lam))
    g = d - (1 - l(lam)) * x(lam)
    assert sp.simplify(moved - L * g) == 0
    assert sp.simplify(moved / (L / S) - S * g) == 0


@pytest.mark.parametrize("form", ["forward", "backward"])
def test_alpha_and_beta_follow_from_one_euler_step(form):
    """Solve the step for x_s with symbols; compare with the preconditioning on a random curve."""
    L_t, L_s, S, l, eta, x, y, D = sp.symbols("L_t L_s S l eta x y D")
    step = sp.Eq(L_s * y, L_t * x + S * (D - (1 - l) * (x if form == "forward" else y)) * eta)
    (found,) = sp.solve(step, y)
    found = sp.expand(found)
    symbols = (L_t, L_s, S, l, eta)
    alpha, beta = (sp.lambdify(symbols, sp.simplify(sp.diff(found, v))) for v in (D, x))
    rng = np.random.default_rng(3)
    curve = torch.linspace(START, STOP, LEVELS, dtype=torch.float64)
    precond = create_precond("analytic", sigma_data=0.5, form=form).load(
        {
            "sigma": (-curve).exp(),
            "l": torch.from_numpy(rng.uniform(0, 1, LEVELS)),
            "log_S": torch.from_numpy(rng.standard_normal(LEVELS)),
        }
    )
    for t, s in [(80.0, 0.002), (5.0, 1.0), (0.3, 0.29)]:
        t, s = (torch.tensor([v], dtype=torch.float64) for v in (t, s))
        a, b = precond.curves.at(t), precond.curves.at(s)
        at = a if form == "forward" else b
        eta_step = precond.curves.eta_between(a, b)
        values = (a.log_L.exp(), b.log_L.exp(), at.log_S.exp(), at.l, eta_step)
        outer = precond.outer(t, s)
        assert float(outer[0]) == pytest.approx(float(alpha(*values)), rel=1e-9)
        assert float(outer[1]) == pytest.approx(float(beta(*values)), rel=1e-9)


def test_trigflow_and_straight_interpolants_are_ctm():
    """A step with D held along any a x_0 + b eps is x_s = s/t x + (1 - s/t) D; TrigFlow's too."""
    t, s, x, D, sd = sp.symbols("t s x D sigma_d", positive=True)
    ctm = s / t * x + (1 - s / t) * D
    # rectified flow: x' = (1 - tau) x_0 + tau eps = x/(1 + t), tau = t/(1 + t), v = (x' - D)/tau
    tau_t, tau_s, x_flow = t / (1 + t), s / (1 + s), x / (1 + t)
    straight = (x_flow + (tau_s - tau_t) * (x_flow - D) / tau_t) * (1 + s)
    assert sp.simplify(straight - ctm) == 0
    F = (D - sd**2 / (t**2 + sd**2) * x) * sp.sqrt(t**2 + sd**2) / (t * sd)
    turn = sp.atan(t / sd) - sp.atan(s / sd)
    radius = {level: sp.sqrt(level**2 + sd**2) for level in (t, s)}
    circle = radius[s] * (sp.cos(turn) * x / radius[t] + sp.sin(turn) * F)
    assert sp.simplify(sp.expand_trig(circle) - ctm) == 0
