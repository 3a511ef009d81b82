"""From weights to rows: evaluate a budget, append every number as soon as it is known."""

from __future__ import annotations

from harness.core.sampling import Walk
from harness.core.student import Student
from harness.errors import DivergedError
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.pictures import Walks, save_pictures
from harness.evaluate.trajectories import save_trajectories
from harness.store.files import read_lines
from harness.store.records import EvalRow, Measure, sampling_name
from harness.store.store import Run
from harness.train.cell import Cell
from harness.train.status import Interrupted, Status


def measure(
    cell: Cell,
    evaluator: Evaluator,
    measures: list[Measure],
    run: Run,
    seconds: float,
    status: Status,
) -> None:
    """Measure the students of one budget, sampling by sampling, and append one row per number.

    There is a student for each average of the weights that `measures` name; their weights are those
    of the budget.

    Raises:
        DivergedError: a number is not finite; no row is written for it.
        Interrupted: a stop was asked for; the rows of the samplings so far are written.
    """
    accelerator = status.accelerator
    students = {}
    for ema in dict.fromkeys(measure.ema for measure in measures):
        students[ema] = Student(cell.average(ema).eval(), cell.precond)
    groups: dict[tuple[float | None, str, int], list[Measure]] = {}
    for measure in measures:
        groups.setdefault((measure.ema, measure.sampler, measure.nfe), []).append(measure)
    if accelerator.is_main_process:  # before the rows: who has those is never asked again
        walks: Walks = {}
        for (ema, sampler, nfe), (measure, *_) in groups.items():
            walk = Walk.of(sampler, nfe, cell.teacher.spec, evaluator.trained_times)
            walks[run.path / "samples" / sampling_name(measure)] = (students[ema], walk)
        seed, device = run.request.evaluation_seed, accelerator.device
        save_pictures(walks, cell.teacher.spec, seed, device)
        save_trajectories(walks, cell.teacher, seed, device)
    for last, ((ema, sampler, nfe), group) in enumerate(groups.items(), 1 - len(groups)):
        scores = evaluator.measure(students[ema], group)
        for measure, (value, std) in scores.items():
            if value != value or abs(value) == float("inf"):
                raise DivergedError(measure.step, f"{measure.metric} at NFE {nfe}, {sampler}")
            extractor_id, reference_n = evaluator.protocol(measure)
            row = EvalRow(
                step=measure.step,
                images=measure.step * cell.spec.train["batch"],
                seconds=round(seconds, 4),
                nfe=nfe,
                metric=measure.metric,
                extractor=measure.extractor,
                n=measure.n,
                reference_n=reference_n,
                value=value,
                lower_is_better=evaluator.metrics[measure.metric].lower_is_better,
                std=std,
                extractor_id=extractor_id,
                sampler=sampler,
                ema=ema,
                seed=measure.seed,
            )
            run.append(row)
            if run.request.track:
                how = "" if sampler == "exact" else f" {sampler}"
                how += "" if ema is None else f" ema {ema}"
                accelerator.log({f"{row.metric}/nfe {nfe}{how}": value}, step=row.step)
        if last and status.stopping():
            raise Interrupted(
                f"stopped after {sampler} at NFE {nfe} of step {measures[0].step}, rows written"
            )
    accelerator.wait_for_everyone()


def seconds_at(run: Run, step: int) -> float:
    """The train clock of a budget that was reached earlier, from its rows or its training log.

    A run that is killed after training to a budget and before measuring it leaves the log alone.
    """
    rows = [row.seconds for measure, row in run.rows().items() if measure.step == step]
    logged = [
        record["seconds"]
        for record in read_lines(run.path / "train.jsonl")
        if record["step"] == step
    ]
    return next((seconds for seconds in (*reversed(rows), *reversed(logged)) if seconds), 0.0)
