"""Do two numbers from before training predict how a preconditioning trains?

    python grids/studies/predict.py OUT.csv STUDY RESULTS GRID [STUDY RESULTS GRID ...]
    python grids/studies/predict.py results/prediction.csv

For every (teacher, preconditioning) of finished grids: the log-ratio to `ctm` of the untrained
error and of the amplification (harness/evaluate/screen.py) over the jumps of a sampler of 1, 2 and
5 steps, and of the error in `alignment` at the start (geometric mean over the first half of the
budgets that were evaluated, medians over seeds) and at the end (the last one), at the nodes of
training where these were evaluated. Written to OUT.csv; printed are Spearman's rank correlations.
Pairs on one teacher are not independent. With OUT.csv alone, what it holds is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from harness.api import create, results
from harness.core.schedule import karras
from harness.evaluate.gap import measure_gaps
from harness.evaluate.screen import relative
from harness.store.records import RunSpec
from harness.store.store import ResultStore
from harness.store.tables import load_matrix
from harness.train.cell import calibrated

METRIC, STEPS = "alignment", (1, 2, 5)
SAMPLES = 256  # in 256 dimensions with 32 modes a larger batch would not fit the cache


def pairs(study: str, root: str, grid: str) -> Iterator[dict[str, Any]]:
    """One row for each teacher, preconditioning but the baseline, and number of steps."""
    matrix = load_matrix(ResultStore(root).existing(), grid)
    specs = [RunSpec.from_json(cell) for cell in matrix["cells"]]
    rows = results(root)
    rows = rows[rows["metric"] == METRIC]
    trained = "exact@trained" in set(rows["sampler"])
    rows = rows[rows["sampler"] == ("exact@trained" if trained else "exact")]
    for label in dict.fromkeys(spec.teacher.label for spec in specs):
        mine = [spec for spec in specs if spec.teacher.label == label]
        numbers = before(mine, Path(root))
        for nfe in STEPS:
            after = {}
            for name in numbers[nfe]:
                ids = {spec.run_id for spec in mine if spec.precond.label == name}
                own = rows[rows["run_id"].isin(ids) & (rows["nfe"] == nfe) & (rows["step"] > 0)]
                curve = own.groupby("step")["value"].median()
                start = np.exp(np.log(curve.iloc[: len(curve) // 2]).mean())
                after[name] = (start, curve.iloc[-1])
            base = (*numbers[nfe]["ctm"], *after["ctm"])
            for name in numbers[nfe]:
                found = np.log(np.array((*numbers[nfe][name], *after[name])) / base)
                if name != "ctm":
                    keys = ("untrained", "amplification", "start", "end")
                    of = {"study": study, "grid": grid, "teacher": label}
                    of |= {"precond": name, "nfe": nfe}
                    yield of | dict(zip(keys, found.tolist(), strict=True))


def before(specs: list[RunSpec], root: Path) -> dict[int, dict[str, tuple[float, float]]]:
    """Untrained error and amplification by number of steps and preconditioning, of one teacher."""
    teacher = create("teacher", specs[0].teacher.name, specs[0].teacher.params)
    data, spec = teacher.dataset(), teacher.spec
    preconds = {
        each.precond.label: calibrated(each.precond, teacher, data, root, torch.device("cpu"))[0]
        for each in specs
    }
    found = {}
    for nfe in STEPS:
        levels = karras(nfe + 1, spec.sigma_min, spec.sigma_max)
        gaps = measure_gaps(preconds, teacher, data, levels, SAMPLES)
        jumps = [(float(t), float(s)) for t, s in pairwise(levels)]
        found[nfe] = {
            name: tuple(
                relative([gaps[name, t, s] for t, s in jumps], quantity)
                for quantity in ("untrained", "amplification")
            )
            for name in preconds
        }
    return found


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rho of both numbers with start and end, by study and number of steps."""
    found = [
        {
            "study": study,
            "nfe": nfe,
            "pairs": len(group),
            **{
                f"{number} ~ {part}": spearmanr(group[number], group[part]).statistic
                for number in ("untrained", "amplification")
                for part in ("start", "end")
            },
        }
        for (study, nfe), group in table.groupby(["study", "nfe"])
    ]
    return pd.DataFrame(found)


def main(out: str, *words: str) -> None:
    """Make OUT.csv if there is something to make it from; print the correlations."""
    if words:
        triples = [words[k : k + 3] for k in range(0, len(words), 3)]
        table = pd.DataFrame(
            [row for study, root, grid in triples for row in pairs(study, root, grid)]
        )
        table.round(4).to_csv(out, index=False)
    print(correlations(pd.read_csv(out)).round(2).to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
