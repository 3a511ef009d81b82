"""How a speed-up is read off two curves: published quickstart runs, one seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from style import LINES, PALE, save

ALT = (
    "Alignment error over training images of ctm and analytic, same seed, 5 steps. A horizontal"
    " line marks where ctm ends; analytic crosses it earlier, and the ratio of the two image counts"
    " is the speed-up."
)
RUNS = Path(__file__).parents[2] / "results" / "quickstart" / "runs"
NFE, SEED = 5, 1  # the seed with the median speed-up of the three


def curve(precond: str) -> pd.DataFrame:
    """Images and values of one published run, ordered by images."""
    (run,) = RUNS.glob(f"{precond}-gmm-ctm-s{SEED}-*")
    rows = pd.read_json(run / "eval.jsonl", lines=True)
    return rows[(rows["metric"] == "alignment") & (rows["nfe"] == NFE)].sort_values("images")


def draw(path) -> None:
    """Two curves, the target and where they reach it."""
    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    curves = {name: curve(name) for name in ("ctm", "analytic")}
    target = curves["ctm"]["value"].iloc[-1]
    reached = {}
    for name, found in curves.items():
        axis.plot("images", "value", data=found, marker="o", ms=4, **LINES[name], label=name)
        # values fall, np.interp wants them to rise; between two evaluations: linear in log value
        reached[name] = np.interp(-np.log(target), -np.log(found["value"]), found["images"])
        axis.vlines(reached[name], 0, target, **LINES[name] | {"lw": 1})
    axis.axhline(target, color=PALE, lw=1)
    axis.annotate("the target: where ctm of this seed ends", (6_000, target * 0.985), va="top")
    ratio = reached["ctm"] / reached["analytic"]
    axis.annotate(
        f"speed-up {reached['ctm']:,.0f} / {reached['analytic']:,.0f} = {ratio:.2f}",
        (reached["analytic"] * 0.98, target * 0.845),
        ha="right",
    )
    axis.set(
        yscale="log",
        ylim=(target * 0.83, None),
        xlim=(0, None),
        xlabel="training images",
        ylabel=f"alignment at {NFE} steps",
        title=f"ring, CTM objective, seed {SEED}",
    )
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter("{x:.2g}")
    axis.legend(loc="upper right")
    save(figure, path, ALT)
