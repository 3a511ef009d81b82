"""Evaluate the weights of a budget and write the rows, sampler by sampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from harness.config.plugins import sources_of
from harness.core.sampling import Walk
from harness.core.student import Student
from harness.errors import ArtifactError, DivergedError
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.pictures import Walks, save_pictures
from harness.evaluate.trajectories import save_trajectories
from harness.store.records import EvalRow, Measure, sampling_name
from harness.store.run import Run
from harness.train.cell import Cell
from harness.train.status import Interrupted, Status


def measure(
    cell: Cell,
    evaluator: Evaluator,
    measures: list[Measure],
    run: Run,
    seconds: float,
    status: Status,
    plugins: Mapping[str, str],
) -> None:
    """Evaluate the students of one budget and append each row to the run as soon as it is known.

    Pictures and trajectories of the samplers are saved first.

    Raises:
        DivergedError: a measured value is not finite; no row is written for it.
        Interrupted: a stop was asked for; the rows of the samplers evaluated so far are written.
    """
    accelerator, groups = status.accelerator, by_sampling(measures)
    if accelerator.is_main_process:  # before the rows: who has those is never asked again
        walks: Walks = {}
        for first, *_ in groups:
            walk = Walk.of(first.sampler, first.nfe, cell.teacher.spec, evaluator.trained_times)
            walks[run.path / "samples" / sampling_name(first)] = (student_of(cell, first), walk)
        seed, device = run.request.evaluation_seed, accelerator.device
        save_pictures(walks, cell.teacher.spec, seed, device)
        save_trajectories(walks, cell.teacher, seed, device)
    for last, group in enumerate(groups, 1 - len(groups)):
        for row in rows(cell, evaluator, group, seconds, plugins):
            run.append(row)
            if run.request.track:
                how = "" if row.sampler == "exact" else f" {row.sampler}"
                how += "" if row.ema is None else f" ema {row.ema}"
                accelerator.log({f"{row.metric}/nfe {row.nfe}{how}": row.value}, step=row.step)
        if last and status.stopping():
            raise Interrupted(
                f"stopped after {group[0].sampler} at NFE {group[0].nfe} of step {group[0].step},"
                " rows written"
            )
    accelerator.wait_for_everyone()


def by_sampling(measures: Iterable[Measure]) -> list[list[Measure]]:
    """Group measures of one budget by (EMA, sampler, NFE): each group uses the same samples."""
    groups: dict[tuple[float | None, str, int], list[Measure]] = {}
    for each in measures:
        groups.setdefault((each.ema, each.sampler, each.nfe), []).append(each)
    return list(groups.values())


def student_of(cell: Cell, measure: Measure) -> Student:
    """The student with the EMA weights that `measure` names, in eval mode."""
    return Student(cell.average(measure.ema).eval(), cell.precond)


def rows(
    cell: Cell,
    evaluator: Evaluator,
    group: list[Measure],
    seconds: float,
    plugins: Mapping[str, str],
) -> Iterator[EvalRow]:
    """Evaluate one group of `by_sampling` and yield its rows, in the main process only.

    The cell must hold the weights of the group's budget, reached after `seconds` of training;
    `plugins` are digests of the source files of plugins that are not built in (`own_sources`).

    Raises:
        DivergedError: a measured value is not finite; there is no row for it.
    """
    for each, (value, std) in evaluator.measure(student_of(cell, group[0]), group).items():
        if value != value or abs(value) == float("inf"):
            raise DivergedError(each.step, f"{each.metric} at NFE {each.nfe}, {each.sampler}")
        extractor_id, reference_n = evaluator.protocol(each)
        yield EvalRow(
            step=each.step,
            images=each.step * cell.spec.train["batch"],
            seconds=round(seconds, 4),
            nfe=each.nfe,
            metric=each.metric,
            extractor=each.extractor,
            n=each.n,
            reference_n=reference_n,
            value=value,
            lower_is_better=evaluator.metrics[each.metric].lower_is_better,
            std=std,
            extractor_id=extractor_id,
            sampler=each.sampler,
            ema=each.ema,
            seed=each.seed,
            plugins=sources_of(each, plugins),
        )


def seconds_at(run: Run, step: int) -> float:
    """Training seconds at a budget that was reached earlier, from its rows or the training log.

    A run that was killed between training and evaluation of a budget has the log only.

    Raises:
        ArtifactError: neither rows nor log contain it.
    """
    rows = [row.seconds for measure, row in run.rows().items() if measure.step == step]
    logged = run.clock().get(step)
    known = [seconds for seconds in (*reversed(rows), logged) if seconds is not None]
    if step > 0 and not known:
        raise ArtifactError(
            f"{run.path / 'train.jsonl'} does not say how long training to step {step} took; delete"
            f" ema/step-{step:08d}.safetensors beside it and run again: that budget will be trained"
            " once more"
        )
    return next(filter(None, known), 0.0)
