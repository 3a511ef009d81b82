"""The model card of an exported student: training, evaluations, position in leaderboards."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from harness.store.records import RunSpec
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.tables import grids, load_matrix

#: how a folder is used
ALONE = (
    "from student import Student  # this folder; needs torch and safetensors alone",
    "",
    'x = Student.load(".").sample(16, nfe=2, seed=0)  # data in [-1, 1]',
)
PIPELINE = (
    "from diffusers import DiffusionPipeline",
    "",
    'pipe = DiffusionPipeline.from_pretrained(".", custom_pipeline=".")  # this folder',
    "images = pipe(batch_size=16, num_inference_steps=2, seed=0).images",
)


def facts(run: Run) -> dict[str, Any]:
    """How a run was trained: plugins, settings, digests."""
    spec: RunSpec = run.spec
    return {
        "run_id": spec.run_id,
        **{axis: getattr(spec, axis).label for axis in ("precond", "teacher", "objective")},
        "dataset": spec.dataset.label,
        "seed": spec.seed,
        "train": spec.train,
        "student": spec.student,
        "digests": spec.digests,
    }


def results(run: Run, step: int) -> list[dict[str, Any]]:
    """All evaluations of the weights of a step."""
    names = ("metric", "extractor", "n", "reference_n", "sampler", "nfe", "seed", "value")
    rows = [row for row in run.rows().values() if row.step == step and row.ema is None]
    return [{name: getattr(row, name) for name in names} for row in rows]


def standing(run: Run) -> Iterator[dict[str, str]]:
    """The run's preconditioning in the leaderboards of its results folder."""
    store, spec = ResultStore(run.results), run.spec
    for grid in grids(store):
        path = store.root / "tables" / grid / "leaderboard.csv"
        ids = [cell["run_id"] for cell in load_matrix(store, grid)["cells"]]
        if spec.run_id not in ids or not path.exists():
            continue
        with path.open() as file:
            for row in csv.DictReader(file):
                if (row["precond"], row["objective"]) == (spec.precond.label, spec.objective.label):
                    names = ("metric", "extractor", "sampler", "nfe", "images")
                    shown = {name: row[name] for name in names}
                    value = f"{float(row['median']):.4g}" if row["median"] else ""
                    yield {"grid": grid, **shown, "median": value, "rank": row["rank"]}


def card(about: dict[str, Any], leaderboard: list[dict[str, str]]) -> str:
    """README.md."""
    shape = "x".join(map(str, about["shape"]))
    lines = [
        f"# {about['name']}",
        "",
        f"A few-step generator of samples [{shape}], {about['classes'] or 'no'} classes; samplers"
        f" {', '.join(about['samplers'])} in {', '.join(about['levels'])} steps. Exported by"
        " precondbench.",
        "",
        "```python",
        *(PIPELINE if about["network"]["kind"] == "unet2d" else ALONE),
        "```",
        "",
        "student.json holds the architecture, the coefficients of every jump of the samplers, how"
        " it was trained and every number that was measured. The weights come from a teacher's: its"
        " licence, and that of the data, hold for them.",
        "",
    ]
    if about["training"]:
        told = [(key, value) for key, value in about["training"].items() if key != "digests"]
        lines += ["## Training", "", tabulate(told, headers=["what", "value"], tablefmt="github")]
        lines += [""]
    for title, rows in (("Measured", about["results"]), ("Leaderboard", leaderboard)):
        if rows:
            table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
            lines += [f"## {title}", "", table, ""]
    if leaderboard:
        lines += ["Median over the seeds of its grid; this is the student of one of them.", ""]
    return "\n".join(lines)
