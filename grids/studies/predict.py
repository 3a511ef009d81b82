"""Does what a strategy is like before training predict how fast it trains?

    python grids/studies/predict.py RESULTS known

For every (teacher, strategy) of a finished grid: the log-ratio to the baseline of the consistency
gap (to t, to s) and of the untrained error, over the jumps that a sampler of n steps makes, against
the area between the training curves (docs/statistics.md; above zero: better than the baseline).
Spearman's rank correlation over all pairs, per NFE, with its p-value. Ranks of pairs on one teacher
are not independent, so p is a lower bound; the correlation within teachers is printed beside it.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import spearmanr

from harness.api import create
from harness.core.schedule import karras
from harness.evaluate.gap import Gap, measure_gaps
from harness.report.write import build_report
from harness.store.files import write_atomic
from harness.store.records import RunSpec
from harness.store.store import ResultStore
from harness.train.cell import calibrated

METRIC = "alignment"
SAMPLES = 256  # in 256 dimensions with 32 modes a larger batch would not fit the cache


def gaps(store: ResultStore, specs: list[RunSpec], nfes: list[int]) -> pd.DataFrame:
    """RMS over the jumps of each sampler, one row per (teacher, precond, NFE)."""
    records = []
    for label in dict.fromkeys(spec.teacher.label for spec in specs):
        mine = {s.precond.label: s for s in specs if s.teacher.label == label}
        params = next(iter(mine.values())).teacher
        teacher = create("teacher", params.name, params.params)
        data = teacher.dataset()
        preconds = {
            name: calibrated(spec.precond, teacher, data, store.root, torch.device("cpu"))[0]
            for name, spec in mine.items()
        }
        for nfe in nfes:
            levels = karras(nfe + 1, teacher.spec.sigma_min, teacher.spec.sigma_max)
            found = measure_gaps(preconds, teacher, data, levels, SAMPLES)
            steps = [(float(t), float(s)) for t, s in pairwise(levels)]
            for name in preconds:
                jumps = [found[name, t, s] for t, s in steps]
                means = {
                    field: math.sqrt(sum(getattr(j, field) ** 2 for j in jumps) / nfe)
                    for field in Gap._fields
                }
                records.append({"teacher": label, "precond": name, "nfe": nfe, **means})
    return pd.DataFrame(records)


def main(root: str, grid: str) -> None:
    """Print the correlations; write all pairs to tables/GRID/prediction.csv."""
    store = ResultStore(root).existing()
    report = build_report(store, grid)
    cells = [RunSpec.from_json(cell) for cell in report.matrix["cells"]]
    area = report.area[report.area["metric"] == METRIC]
    before = gaps(store, cells, sorted(area["nfe"].unique()))
    base = before[before["precond"] == report.baseline].set_index(["teacher", "nfe"])
    pairs = before[before["precond"] != report.baseline].merge(
        area[["teacher", "precond", "nfe", "area", "area_low", "area_high"]],
        on=["teacher", "precond", "nfe"],
    )
    at = list(zip(pairs["teacher"], pairs["nfe"], strict=True))
    for field in Gap._fields:
        ratios = pairs[field].to_numpy() / base.loc[at, field].to_numpy()
        pairs[f"log_{field}"] = [math.log(max(ratio, 1e-12)) for ratio in ratios]
    path = store.root / "tables" / grid / "prediction.csv"
    write_atomic(path, pairs.to_csv(index=False))
    print(f"{'NFE':>4} {'predictor':>10} {'pairs':>6} {'rho':>7} {'p':>9} {'within a teacher':>17}")
    for nfe, group in pairs.groupby("nfe"):
        for field in Gap._fields:
            rho, p = spearmanr(group[f"log_{field}"], group["area"])
            within = [
                spearmanr(g[f"log_{field}"], g["area"]).statistic
                for _, g in group.groupby("teacher")
                if g["area"].nunique() > 2
            ]
            inside = sum(within) / len(within) if within else math.nan
            print(f"{nfe:>4} {field:>10} {len(group):>6} {rho:>7.2f} {p:>9.2g} {inside:>17.2f}")
    print(f"rho < 0: a smaller gap goes with faster training. All pairs: {path}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or [str(Path("results")), "known"]))
