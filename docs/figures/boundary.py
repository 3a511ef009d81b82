"""The two properties of a preconditioning: identity at s = t, and the teacher's slope there."""

from __future__ import annotations

import ring
import torch
from matplotlib import pyplot as plt
from style import LINES, PALE, save

from harness.core.solver import solve

ALT = (
    "Left: skip and out of three preconditionings for jumps from t = 1, over s/t; all meet skip = 1"
    " and out = 0 at s = t. Right: error of the untrained jump over its length; for tangent"
    " preconditionings"
    " it falls with the square of the length, for edm only linearly."
)


def draw(path) -> None:
    """Left the coefficients from t = 1, right the error of short jumps from there."""
    t = torch.tensor(1.0, dtype=torch.float64)
    ratio = torch.linspace(0.002, 1, 400, dtype=torch.float64)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for name, precond in ring.preconds().items():
        skip, out, _ = precond.coeffs(t, ratio * t)
        left.plot(ratio, skip, **LINES[name], label=name)
        left.plot(ratio, out, **LINES[name])
    left.scatter([1, 1], [1, 0], color="black", zorder=5, clip_on=False)
    left.annotate("skip", (0.55, 0.72), fontsize=10)
    left.annotate("out", (0.55, 0.13), fontsize=10)
    left.set(xlabel="s / t, t = 1", title="f(x, t, t) = x: every line ends in a dot", xlim=(0, 1))
    left.legend(loc="upper left", fontsize=8)

    lengths = torch.logspace(-3, -0.01, 25, dtype=torch.float64)
    x = ring.paths(ring.noises(256), torch.tensor([80.0, 1.0], dtype=torch.float64))[-1]
    errors: dict[str, list[float]] = {name: [] for name in ring.NAMES}
    for length in lengths:
        s = t * (1 - length)
        exact = solve(ring.teacher().denoise, x, torch.stack([t, s]), substeps=16)
        for name in ring.NAMES:
            jumped = ring.untrained(name).jump(x, t.expand(len(x)), s.expand(len(x)))
            errors[name].append(float((jumped - exact).square().mean().sqrt()))
    for name, values in errors.items():
        right.plot(lengths, values, **LINES[name], label=name)
    for power, at in ((1, 0.35), (2, 0.25)):
        guide = errors["edm" if power == 1 else "ctm"][4] * at
        right.plot(lengths, guide * (lengths / lengths[4]) ** power, color=PALE, lw=1)
        where = (float(lengths[2]), guide * float(lengths[2] / lengths[4]) ** power * 0.35)
        right.annotate(f"slope {power}", where, color="#707070", fontsize=8)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="length of the jump, (t - s)/t",
        ylabel="RMS error, untrained",
        title="tangent: short jumps follow the teacher",
    )
    right.legend(loc="lower right", fontsize=8)
    save(figure, path, ALT)
