"""The teacher's ODE in the plane and over time, and jumps that a student should make along it."""

from __future__ import annotations

import itertools

import ring
import torch
from matplotlib import pyplot as plt
from style import BLACK, BLUE, ORANGE, PALE, save

from harness.core.schedule import karras

ALT = (
    "Left: forty trajectories of the teacher's ODE in the plane, from noise to a ring of eight"
    " modes, one of them marked. Right: one coordinate of the same trajectories over the noise"
    " level; along the marked one, one long jump from 80 to 0.002 and three short ones that meet it"
    " at 9.7 and 0.47."
)


def draw(path) -> None:
    """Both panels in x / sqrt(t^2 + sd^2), what a network sees: all noise levels have one size."""
    figure, (plane, time) = plt.subplots(1, 2, figsize=(8.4, 4.1), width_ratios=[1, 1.15])
    levels = ring.fine()
    ways = ring.scaled(ring.paths(ring.noises(40), levels), levels[:, None])
    modes = ring.scaled(torch.tensor(ring.teacher().means), torch.zeros(8))
    chord = (ways[0] - ways[-1]).norm(dim=-1)
    bend = ways.diff(dim=0).norm(dim=-1).sum(0) - chord
    one = ways[:, int((bend * (chord > 0.8)).argmax())]  # of those that go far the most bent

    plane.plot(*ways.permute(2, 0, 1), color=PALE, lw=0.7, zorder=1)
    plane.plot(*one.T, color=BLACK, zorder=3)
    plane.scatter(*ways[0].T, s=9, color="white", edgecolor="#808080", lw=0.8, zorder=2)
    plane.scatter(*ways[-1].T, s=9, color="#808080", zorder=2)
    plane.scatter(*modes.T, marker="+", s=110, color=ORANGE, lw=1.4, zorder=2)
    plane.set(
        title="from noise (open) to data (filled), modes +",
        xlabel=r"$x_1\,/\,\sqrt{t^2+\sigma_d^2}$",
        ylabel=r"$x_2\,/\,\sqrt{t^2+\sigma_d^2}$",
        aspect="equal",
    )

    axis = int((one[0] - one[-1]).abs().argmax())
    time.plot(levels, ways[..., axis], color=PALE, lw=0.7, zorder=1)
    time.plot(levels, one[:, axis], color=BLACK, zorder=3, label="teacher's ODE")
    for n, colour, bend in ((1, ORANGE, 0.22), (3, BLUE, -0.35)):
        at = [int((levels - level).abs().argmin()) for level in karras(n + 1)]
        points = [(float(levels[k]), float(one[k, axis])) for k in at]
        for start, end in itertools.pairwise(points):
            shape = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 2, "shrinkB": 3}
            shape["connectionstyle"] = f"arc3,rad={bend}"
            time.annotate("", xy=end, xytext=start, arrowprops=shape, zorder=4)
        time.scatter(*zip(*points, strict=True), s=26, color=colour, zorder=5)
        time.plot([], [], color=colour, label=f"{n} jump{'s' * (n > 1)} of a student")
    time.set(
        title="the same over the noise level t",
        xlabel="t, noise at the left",
        ylabel=rf"$x_{axis + 1}\,/\,\sqrt{{t^2+\sigma_d^2}}$",
        xscale="log",
    )
    time.invert_xaxis()
    time.legend(loc="lower right", fontsize=8)
    save(figure, path, ALT)
