"""One rank of a worker that trains and evaluates one cell.

It reads spec.json and request.json in the run's folder and writes its results there; the exit code
says how it ended.
"""

from __future__ import annotations

import logging
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from harness.config.matrix import wanted
from harness.config.plugins import own_sources, plugins_of
from harness.core.progress import listening
from harness.errors import ConfigError, HarnessError
from harness.evaluate.evaluator import Evaluator
from harness.registry import own_file, registry
from harness.store.files import write_json
from harness.store.provenance import collect
from harness.store.records import Measure, Request
from harness.store.run import Run, without_average
from harness.store.sources import keep_sources
from harness.train.cell import build_cell
from harness.train.checkpoint import load_ema
from harness.train.coefficients import fingerprint
from harness.train.loop import Trainer
from harness.train.measure import measure, seconds_at
from harness.train.status import Interrupted, Status, explain
from harness.train.torch_settings import repeatable, tune
from harness.train.trackers import start_trackers

#: timeout of collectives: a rank may be making an artifact alone, or waiting for another runner to
#: make it; ranks that hang or die are detected by the runner
PATIENCE = timedelta(days=1)


def main(folder: str) -> int:
    """Do all training and evaluation that is missing in the run; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run = Run(Path(folder))
    request = run.request
    accelerator = Accelerator(
        # Accelerate would also take devices that have no float64
        cpu=request.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="bf16" if run.spec.train["precision"] == "bf16" else "no",
        log_with=list(request.track) or None,
        project_dir=str(run.path / "trackers") if request.track else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    status = Status(run, accelerator)
    try:
        if request.device == "cuda" and accelerator.device.type != "cuda":
            raise HarnessError(
                f"launch.device: cuda, but torch {torch.__version__} cannot use the GPU that is"
                " visible here: install a build for its driver (see nvidia-smi), or use device: cpu"
            )
        if accelerator.num_processes != request.processes:
            raise HarnessError(
                f"{request.processes} processes were asked for, {accelerator.num_processes} came up"
            )
        with listening(status.hear):
            work(run, request, accelerator, status)
    except Exception as error:
        if explain(error)[1] in ("unexpected", "device"):
            traceback.print_exc()
        status.fail(error)
        if accelerator.num_processes > 1:
            os._exit(error.exit_code if isinstance(error, Interrupted) else 1)
        return error.exit_code if isinstance(error, Interrupted) else 1
    accelerator.end_training()
    status.done()
    return 0


def work(run: Run, request: Request, accelerator: Accelerator, status: Status) -> None:
    """Evaluate budgets whose weights exist, train and evaluate the others; append rows at once."""
    for plugin in request.plugins:
        registry.load_file(plugin)
    plugins = own_sources(run.spec, request)  # as they were loaded, whatever is edited meanwhile
    if accelerator.is_main_process:
        files = map(own_file, plugins_of(run.spec, request).values())
        keep_sources(run.results, [path for path in files if path and path.is_file()])
    repeatable()
    results = run.results
    cell = build_cell(run.spec, results, accelerator.device)
    tune(cell, **request.switches)
    evaluator = Evaluator(
        cell.teacher,
        cell.dataset,
        request,
        accelerator,
        results,
        heartbeat=status.beat,
        trained_times=cell.objective.trained_times(cell.teacher.spec),
    )
    trainer = Trainer(cell, run, request, accelerator, status.beat, status.stopping)
    status.sizes = {
        "training": ("micro_batch", trainer.micro),
        "evaluating": ("evaluation_batch", evaluator.batch),
    }
    if accelerator.is_main_process:
        origin = collect(
            cell.costs,
            accelerator,
            trainer.micro,
            request.switches,
            plugins,
            evaluator.batch,
        )
        write_json(run.path / "provenance.json", origin)
        write_json(run.path / "coefficients.json", fingerprint(cell.precond))
    if request.track:
        start_trackers(accelerator, run.spec)
    by_step: dict[int, list[Measure]] = {}
    for owed in run.missing(wanted(request, run.spec)):
        by_step.setdefault(owed.step, []).append(owed)
    if lacking := run.without_averages(request.averages):
        raise ConfigError(without_average(run.path, lacking))
    have = [
        step
        for step, measures in by_step.items()
        if all(run.weights(step, ema).exists() for ema in {owed.ema for owed in measures})
    ]
    if accelerator.num_processes > 1:  # one opinion: another machine may see files a minute late
        by_step, have = broadcast_object_list([by_step, have])
    for step in sorted(have):
        for ema in dict.fromkeys(owed.ema for owed in by_step[step]):
            load_ema(run.weights(step, ema), cell.average(ema))
        status.enter("evaluating", step)
        measure(cell, evaluator, by_step[step], run, seconds_at(run, step), status, plugins)
    to_train = sorted(set(by_step) - set(have))
    if not to_train:
        return
    cell.restart()
    trainer.resume(at_most=to_train[0])
    for step in to_train:
        status.enter("training", trainer.state.step)
        trainer.train_to(step)
        status.enter("evaluating", step)
        measure(cell, evaluator, by_step[step], run, trainer.state.seconds, status, plugins)
