"""One cell in one process group: `python -m harness.train.worker RUN_FOLDER [--attached]`.

Started by the runner, directly or under torchrun. What to do is read from the run's folder
(spec.json, request.json), what was done is written there; the exit code says how it ended. With
--attached the worker ends at once when its standard input closes, which happens when the runner
dies however it dies: no orphan keeps training.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import torch
from accelerate import Accelerator

from harness.config.matrix import wanted
from harness.errors import DivergedError, HarnessError
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.pictures import save_pictures
from harness.registry import registry
from harness.store.files import write_json
from harness.store.provenance import collect
from harness.store.records import EvalRow, Measure, Request, State
from harness.store.store import Run
from harness.train.cell import Cell, build_cell
from harness.train.checkpoint import load_ema
from harness.train.coefficients import fingerprint
from harness.train.loop import Interrupted, Trainer

log = logging.getLogger(__name__)


def main(folder: str, *flags: str) -> int:
    """Do everything the run still owes; return the exit code."""
    if "--attached" in flags:
        threading.Thread(target=_end_with_runner, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run = Run(Path(folder))
    request = run.request
    if request.processes == 1 and "RANK" in os.environ:
        raise SystemExit("worker: request.json asks for one process, a process group was started")
    accelerator = Accelerator(
        cpu=request.device == "cpu",
        mixed_precision="bf16" if run.spec.train["precision"] == "bf16" else "no",
    )
    status = Status(run, accelerator.is_main_process)
    try:
        if accelerator.num_processes != request.processes:
            raise HarnessError(
                f"{request.processes} processes were asked for, {accelerator.num_processes} came up"
            )
        work(run, request, accelerator, status)
    except DivergedError as error:
        return status.end(State.DIVERGED, str(error))
    except Interrupted as error:
        status.end(State.INTERRUPTED, str(error))
        return error.exit_code
    except HarnessError as error:
        return status.end(State.FAILED, str(error))
    except Exception as error:
        traceback.print_exc()
        return status.end(State.FAILED, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        accelerator.end_training()
    status.end(State.DONE, "")
    return 0


def work(run: Run, request: Request, accelerator: Accelerator, status: Status) -> None:
    """Evaluate what has weights, train what has not, append every number as it comes."""
    for plugin in request.plugins:
        registry.load_file(plugin)
    torch.use_deterministic_algorithms(True, warn_only=True)
    results = run.path.parent.parent
    spec = run.spec
    cell = build_cell(spec, results, accelerator.device)
    if accelerator.is_main_process:
        write_json(run.path / "provenance.json", collect(cell.costs, accelerator, request))
        write_json(run.path / "coefficients.json", fingerprint(cell.precond))
    evaluator = Evaluator(cell.teacher, cell.dataset, request, accelerator, results)
    trainer = Trainer(cell, run, request, accelerator, status.beat, status.stopping)
    missing = run.missing(wanted(request))
    accelerator.wait_for_everyone()
    to_train = []
    for step in sorted({measure.step for measure in missing}):
        measures = [measure for measure in missing if measure.step == step]
        if trainer.ema_path(step).exists():
            load_ema(trainer.ema_path(step), cell.target)
            evaluate(cell, evaluator, measures, run, accelerator, seconds_at(run, step))
        else:
            to_train.append((step, measures))
    if not to_train:
        return
    cell.target.load_state_dict(cell.network.state_dict())  # step 0 again
    trainer.resume(at_most=to_train[0][0])
    for step, measures in to_train:
        trainer.train_to(step)
        evaluate(cell, evaluator, measures, run, accelerator, trainer.state.seconds)


def evaluate(
    cell: Cell,
    evaluator: Evaluator,
    measures: list[Measure],
    run: Run,
    accelerator: Accelerator,
    seconds: float,
) -> None:
    """Measure the EMA student and append one row per number.

    Raises:
        DivergedError: a number is not finite; no row is written for it.
    """
    cell.target.eval()
    scores = evaluator.measure(cell.ema_student, measures)
    for measure, (value, std) in scores.items():
        if value != value or abs(value) == float("inf"):
            raise DivergedError(measure.step, f"{measure.metric} at NFE {measure.nfe}")
        extractor_id, reference_n = evaluator.protocol(measure)
        run.append(
            EvalRow(
                step=measure.step,
                images=measure.step * cell.spec.train["batch"],
                seconds=round(seconds, 4),
                nfe=measure.nfe,
                metric=measure.metric,
                extractor=measure.extractor,
                n=measure.n,
                reference_n=reference_n,
                value=value,
                lower_is_better=evaluator.metrics[measure.metric].lower_is_better,
                std=std,
                extractor_id=extractor_id,
            )
        )
    if accelerator.is_main_process:
        seed, device = run.request.evaluation_seed, accelerator.device
        student, spec = cell.ema_student, cell.teacher.spec
        save_pictures(run.path / "samples", student, spec, measures, seed, device)
    accelerator.wait_for_everyone()


def seconds_at(run: Run, step: int) -> float:
    """The train clock of a budget that was reached earlier, from the rows it left."""
    return max((row.seconds for key, row in run.rows().items() if key.step == step), default=0.0)


class Status:
    """status.json and the wish to stop: SIGTERM and SIGINT ask for a checkpoint, then an end."""

    def __init__(self, run: Run, is_main: bool) -> None:
        self.run = run
        self.is_main = is_main
        self.step = 0
        self._asked = False
        self._beaten = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        self._write(State.RUNNING, "")

    def stopping(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self._asked

    def beat(self, step: int) -> None:
        """Note the step; status.json is rewritten twice a second at most."""
        self.step = step
        if time.monotonic() - self._beaten > 0.5:
            self._write(State.RUNNING, "")

    def end(self, state: State, reason: str) -> int:
        """Write the final state; returns 1, the exit code of a cell that did not finish."""
        if reason:
            log.error("%s: %s", state, reason)
        self._write(state, reason)
        return 1

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _write(self, state: State, reason: str) -> None:
        self._beaten = time.monotonic()
        if self.is_main:
            self.run.set_status(state, reason, step=self.step, pid=os.getpid())


def _end_with_runner() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
