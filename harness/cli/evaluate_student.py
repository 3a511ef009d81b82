"""`eval --student`: evaluate a published student by the protocol of a grid."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.grid import load_grid
from harness.config.matrix import Matrix, expand, wanted
from harness.config.plugins import plugin_spec, resolve_dataset
from harness.config.schema import PluginRef
from harness.core.sampler import Sampler
from harness.errors import EXIT_DONE, ConfigError, DivergedError
from harness.store.files import write_json
from harness.store.lease import taken
from harness.store.records import PUBLISHED, EvalRow, PluginSpec, Request, RunSpec, State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.tables import TABLES, save_matrix, sources

if TYPE_CHECKING:
    from harness.api import StudentSpec, TeacherSpec, TrainedStudent


def evaluate_student(args: argparse.Namespace) -> int:
    """Evaluate the student on every problem of the grid that it fits; print the leaderboard.

    Results are stored as a run with objective `published`; existing rows are not computed again.
    """
    if args.runs:
        raise ConfigError("eval: name runs, or a student with --student, not both")
    if args.matrix is None:
        raise ConfigError("eval --student: say with --matrix GRID.yaml what to measure it on")
    ref = PluginRef.model_validate(args.format)
    grid = load_grid(args.matrix, args.set)
    matrix = expand(grid, (), args.plugin)
    from harness.api import load_student

    student = load_student(args.student, ref.name, **ref.params)
    specs = _cells(matrix, student, Path(args.student), ref)
    samplers = _fitting(student.spec, matrix.request, args.samplers)
    request = replace(matrix.request, budgets=[0], emas=[None], samplers=samplers)
    store = ResultStore(grid.results).prepare()
    if not (store.root / "tables" / grid.name / "matrix.json").exists():
        save_matrix(store, matrix)
    for spec in specs:
        _measure(student, store.open(spec), request)
    from harness.report.write import build_report, write_tables

    made_from = sources(store, grid.name)
    report = build_report(store, grid.name)
    write_tables(store, report, made_from)
    print(report.text(TABLES[0]))
    print(f"tables: {store.root / 'tables' / grid.name}")
    return EXIT_DONE


def _cells(matrix: Matrix, student: TrainedStudent, path: Path, ref: PluginRef) -> list[RunSpec]:
    """One run for every teacher and dataset of the grid that the student fits.

    Raises:
        ConfigError: it fits none; the sentence says why not the first.
    """
    from harness.api import create_teacher

    known = student.spec
    changed = plugin_spec("student", PluginRef(name=known.format, params=ref.params)).changed
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem if path.is_file() else path.resolve().name)
    found: dict[tuple[str, str], RunSpec] = {}
    reason = ""
    for spec in matrix.specs:
        teacher = create_teacher(spec.teacher.name, **spec.teacher.params).spec
        if why := _misfit(known, teacher):
            reason = reason or f"{path}: {why} (teacher {spec.teacher.label})"
            continue
        found.setdefault(
            (spec.digests["teacher"], spec.digests["dataset"]),
            RunSpec(
                precond=PluginSpec(name, 1, changed, changed),
                teacher=spec.teacher,
                objective=PluginSpec(PUBLISHED, 1),
                dataset=spec.dataset,
                seed=0,
                train={},
                backbone=None,
                digests={**spec.digests, "precond": known.digest},
            ),
        )
    if not found:
        raise ConfigError(reason)
    return list(found.values())


def _misfit(student: StudentSpec, teacher: TeacherSpec) -> str:
    """Reason why a student is not comparable with students of a teacher; empty if it is."""
    if student.shape != teacher.shape:
        return f"its samples are {list(student.shape)}, the grid's are {list(teacher.shape)}"
    if student.classes != teacher.classes:
        return f"it has {student.classes} classes, the grid's teacher has {teacher.classes}"
    if student.sigma_max != teacher.sigma_max:
        return (
            f"it starts at sigma_max {student.sigma_max:g}, the grid's students at"
            f" {teacher.sigma_max:g}"
        )
    return ""


def _fitting(student: StudentSpec, request: Request, named: list[str] | None) -> list[str]:
    """Samplers to measure with: those named, else the grid's that fit, else the student's own.

    Raises:
        ConfigError: one is named that asks for jumps that the student cannot make.
    """

    def fits(name: str) -> bool:
        sampler = Sampler.read(name)
        return sampler.kind in student.samplers and sampler.times != "trained"

    for name in named or ():
        serves = (nfe for nfe in request.nfe if Sampler.read(name).serves(nfe))
        student.walk(name, next(serves, request.nfe[0]))
    return named or [n for n in request.samplers if fits(n)] or [student.samplers[0]]


def _measure(student: TrainedStudent, run: Run, request: Request) -> None:
    """Append every number that the run lacks.

    Raises:
        ConfigError: another process is at it.
    """
    spec = run.spec
    if not run.missing(wanted(request, spec)):
        return
    lease = run.lease()
    if not taken(lease):
        raise ConfigError(f"{run.path}: another process measures this student right now")
    try:
        run.write_request(request)
        run.set_status(State.RUNNING)
        _append(student, run, spec, request)
        run.set_status(State.DONE)
    except BaseException as error:
        run.set_status(State.FAILED, str(error) or type(error).__name__)
        raise
    finally:
        lease.release()


def _append(student: TrainedStudent, run: Run, spec: RunSpec, request: Request) -> None:
    import torch
    from accelerate import Accelerator

    from harness.api import create_teacher
    from harness.evaluate.evaluator import Evaluator
    from harness.store.provenance import collect
    from harness.train.torch_settings import repeatable

    repeatable()
    accelerator = Accelerator(cpu=request.device == "cpu" or not torch.cuda.is_available())
    teacher = create_teacher(spec.teacher.name, **spec.teacher.params)
    dataset = resolve_dataset(spec.dataset, teacher)
    student.to(accelerator.device)
    results, low = run.results, student.spec.sigma_min
    evaluator = Evaluator(
        teacher.to(accelerator.device), dataset, request, accelerator, results, sigma_min=low
    )
    origin = collect({}, accelerator, 0, evaluation_batch=evaluator.batch)
    write_json(run.path / "provenance.json", origin | {"student": asdict(student.spec)})
    for measure, (value, std) in evaluator.measure(
        student, run.missing(wanted(request, spec))
    ).items():
        if not math.isfinite(value):
            raise DivergedError(0, f"{measure.metric} at NFE {measure.nfe}, {measure.sampler}")
        extractor_id, reference_n = evaluator.protocol(measure)
        lower = evaluator.metrics[measure.metric].lower_is_better
        run.append(
            EvalRow(
                **asdict(measure),
                images=0,
                seconds=0.0,
                reference_n=reference_n,
                value=value,
                lower_is_better=lower,
                std=std,
                extractor_id=extractor_id,
            )
        )
