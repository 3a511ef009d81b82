"""From weights to rows: evaluate a budget, append every number as soon as it is known."""

from __future__ import annotations

import itertools

from harness.errors import ArtifactError, DivergedError
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.pictures import save_pictures
from harness.evaluate.trajectories import save_trajectories
from harness.store.records import EvalRow, Measure
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
    """Measure the EMA student at one budget, NFE by NFE, and append one row per number.

    Raises:
        DivergedError: a number is not finite; no row is written for it.
        Interrupted: a stop was asked for; the rows of the NFEs so far are written.
    """
    accelerator = status.accelerator
    cell.target.eval()
    if accelerator.is_main_process:  # before the rows: who has those is never asked again
        seed, device = run.request.evaluation_seed, accelerator.device
        folder, student = run.path / "samples", cell.ema_student
        save_pictures(folder, student, cell.teacher.spec, measures, seed, device)
        save_trajectories(folder, student, cell.teacher, measures, seed, device)
    ordered = sorted(measures, key=lambda measure: measure.nfe)
    for nfe, group in itertools.groupby(ordered, key=lambda measure: measure.nfe):
        scores = evaluator.measure(cell.ema_student, list(group))
        for measure, (value, std) in scores.items():
            if value != value or abs(value) == float("inf"):
                raise DivergedError(measure.step, f"{measure.metric} at NFE {nfe}")
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
            )
            run.append(row)
            if run.request.track:
                accelerator.log({f"{row.metric}/nfe {nfe}": value}, step=row.step)
        if nfe != ordered[-1].nfe and status.stopping():
            raise Interrupted(f"stopped after NFE {nfe} of step {measures[0].step}, rows written")
    accelerator.wait_for_everyone()


def seconds_at(run: Run, step: int) -> float:
    """The train clock of a budget that was reached earlier, from its rows or its training log.

    A run that is killed after training to a budget and before measuring it leaves the log alone.

    Raises:
        ArtifactError: neither says it.
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
