"""Results folders written by hand: many cells in no time, in the files the harness writes."""

from __future__ import annotations

import itertools
import json
import math

from harness.store.records import EvalRow, PluginSpec, RunSpec
from harness.store.schema import SCHEMA
from harness.store.store import ResultStore

BUDGETS = (100, 200, 400, 800)


def spec(
    precond="ctm", seed=0, *, revision=1, train=None, teacher="gmm", digest="d1", changed=None
):
    """The identity of a cell."""
    return RunSpec(
        precond=PluginSpec(precond, revision, changed or {}, changed or {}),
        teacher=PluginSpec(teacher, 1),
        objective=PluginSpec("ctm", 1),
        dataset=PluginSpec("teacher", 1),
        seed=seed,
        train={"batch": 10, "lr": 0.1, **(train or {})},
        backbone=None,
        digests={"teacher": digest, "dataset": digest},
    )


def quality(spec, step, nfe, metric):
    """A smooth value that falls with training; runs differ by constant factors."""
    skill = 1 + sum(map(ord, spec.precond.name)) % 7 / 5
    noise = 1 + 0.01 * math.sin(7 * spec.seed + len(spec.precond.name))
    return noise * nfe**-0.5 * (len(metric) / 5) * step ** (-0.3 * skill)


def many_problems(root, count=12):
    """Write a grid of `count` teachers, t0, t1, ..., whose values differ; returns the store."""
    specs = [
        spec(name, seed, teacher=f"t{k}", digest=f"t{k}")
        for k in range(count)
        for name in ("ctm", "edm", "mine")
        for seed in (0, 1)
    ]

    def harder(each, *measure):
        return (1 + int(each.teacher.name[1:]) / 7) * quality(each, *measure)

    return write_results(root, specs, nfe=(1, 2), metrics=("frechet", "alignment"), value=harder)


def write_results(
    root,
    specs,
    *,
    grid="synthetic",
    budgets=BUDGETS,
    nfe=(1, 2),
    metrics=("frechet",),
    value=quality,
    state="done",
    reason="",
    report=None,
    hardware="1 x CPU",
    evaluation_seed=0,
    rows=True,
):
    """Write runs and matrix.json of a grid into `root`; returns the store.

    Plain writes: what the store does to survive a crash would take most of a test's time.
    """
    store = ResultStore(root).prepare()
    wanted = [
        {"step": step, "nfe": n, "metric": metric, "extractor": "raw", "n": 50}
        | ({"seed": evaluation_seed} if evaluation_seed else {})
        for step, n, metric in itertools.product(budgets, nfe, metrics)
    ]
    for each in specs:
        run = store.run_at(each.run_id)
        run.path.mkdir(exist_ok=True)
        origin = {"hardware": hardware, "commit": "abc", "costs": {"calibration_seconds": 2.0}}
        status = {"state": state, "reason": reason, "step": budgets[-1]}
        (run.path / "spec.json").write_text(json.dumps({"schema": SCHEMA, **each.to_json()}))
        (run.path / "provenance.json").write_text(json.dumps(origin))
        (run.path / "status.json").write_text(json.dumps(status))
        lines = [
            vars(
                EvalRow(
                    images=measure["step"] * 10,
                    seconds=measure["step"] / 100,
                    reference_n=50,
                    value=value(each, measure["step"], measure["nfe"], measure["metric"]),
                    **measure,
                )
            )
            for measure in wanted
        ]
        if rows:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (run.path / "eval.jsonl").write_text(text)
    settings = {"baseline": "ctm", "targets": {}} | (report or {})
    matrix = {
        "schema": SCHEMA,
        "grid": {"name": grid, "report": settings},
        "request": {"evaluation_seed": evaluation_seed},
        "wanted": wanted,
        "cells": [each.to_json() for each in specs],
        "skips": [],
    }
    path = store.root / "tables" / grid / "matrix.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(matrix))
    return store
