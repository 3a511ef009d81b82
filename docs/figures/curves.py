"""l and S, what Analytic-Precond measures of a teacher, on the ring."""

from __future__ import annotations

import ring
from matplotlib import pyplot as plt
from style import BLACK, BLUE, ORANGE, PALE, save

ALT = (
    "Left: l over the noise level. It is 1 at high noise, falls, rises again where the noise is"
    " as wide as a mode, and ends at 0; it is never below the bound of Gaussian data. Right: S"
    " falls by six orders of magnitude from high noise to the width of a mode and rises again."
)


def draw(path) -> None:
    """Two panels over the noise level, noisiest at the left as in sampling."""
    artifact = ring.preconds()["analytic"].artifact
    sigma, l, S = artifact["sigma"], artifact["l"], artifact["log_S"].exp()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    variance = ring.teacher().spec.sigma_data ** 2
    left.plot(sigma, l, color=BLUE, label=r"measured $l = 1 - \mathrm{E}[\mathrm{tr}\,\nabla D]/d$")
    bound = sigma**2 / (sigma**2 + variance)
    left.plot(sigma, bound, color=ORANGE, ls=(0, (5, 2)), label="Gaussian data of this variance")
    left.axhline(1, color=BLACK, lw=0.8, label="ctm: $l = 1$")
    left.set(ylabel="$l$", ylim=(-0.03, 1.05))
    left.legend(loc="center right", bbox_to_anchor=(1.02, 0.8), fontsize=8)
    right.plot(sigma, S, color=BLUE, label=r"measured $S = 1/\mathrm{RMS}(g)$")
    right.axhline(float(S.min()), color=BLACK, lw=0.8, label="ctm: $S$ constant")
    right.set(ylabel="$S$ (any unit)", yscale="log")
    right.legend(loc="upper right", fontsize=8)
    p = ring.teacher().params
    for axis in (left, right):
        for level, name in ((p.radius, "ring's radius"), (p.std, "a mode's width")):
            axis.axvline(level, color=PALE, lw=1, ls=(0, (1, 1.5)))
            height = 0.09 if axis is left else 0.35
            where = {"xycoords": ("data", "axes fraction"), "rotation": 90, "fontsize": 7}
            axis.annotate(name, (level, height), ha="right", **where)
        axis.set(xscale="log", xlabel="noise level t")
        axis.invert_xaxis()
        axis.grid(color=PALE, lw=0.4, alpha=0.6)
    save(figure, path, ALT)
