"""The training loop: steps, logs, checkpoints at budgets, and a clock that counts training only."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator

from harness.errors import DivergedError
from harness.store.records import Request
from harness.store.run import Run
from harness.train.cell import Cell
from harness.train.checkpoint import TrainingState, load_checkpoint, save_checkpoint, save_ema
from harness.train.machine import Machine
from harness.train.optimizer import Optimizer
from harness.train.status import Interrupted
from harness.train.step import take_step
from harness.train.torch_settings import arithmetic

log = logging.getLogger(__name__)

AGREE = 10  # steps between two times that processes agree whether to stop


class Trainer:
    """Trains one cell from its newest checkpoint, stopping at budgets for evaluation.

    Args:
        run: the run that stores checkpoints, evaluation weights and the log; None stores nothing.
        heartbeat: called after every step with its number, to show that the process is alive.
        stopping: returns whether to save and raise `Interrupted`; called after steps.
    """

    def __init__(
        self,
        cell: Cell,
        run: Run | None,
        request: Request,
        accelerator: Accelerator | Machine,
        heartbeat: Callable[[int], None] = lambda step: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cell = cell
        self.run = run
        self.request = request
        self.accelerator = accelerator
        self.heartbeat = heartbeat
        self.stopping = stopping
        train = cell.spec.train
        self.micro = request.micro_batch or train["batch"] // accelerator.num_processes
        optimizer = Optimizer(train["optimizer"], cell.network.parameters(), train["lr"])
        for rate in request.averages:
            cell.averages[rate] = copy.deepcopy(cell.target).eval()
        self.state = TrainingState(
            cell.network, cell.target, optimizer, cell.averages, cell.owned, cell.frozen
        )
        self._logs: list[dict[str, torch.Tensor]] = []

    def resume(self, at_most: int) -> None:
        """Load the run's newest intact checkpoint up to step `at_most`, if there is one.

        Raises:
            ConfigError: that checkpoint lacks an average or module that is needed.
        """
        if self.run:
            load_checkpoint(self.run.checkpoints, self.state, at_most=at_most)

    def train_to(self, budget: int) -> None:
        """Train until step `budget`; checkpoint and evaluation weights are then on disk.

        Raises:
            DivergedError: a loss or a weight is not finite.
            Interrupted: `stopping` returned true; a checkpoint was written first.
        """
        cell, state, request = self.cell, self.state, self.request
        for network in cell.networks:
            network.train()
        started = self._clock()
        while state.step < budget:
            with arithmetic(cell.spec.train["precision"]):
                logs = take_step(cell, state.optimizer, state.step, self.micro, self.accelerator)
            self._logs.append(logs)
            state.step += 1
            self.heartbeat(state.step)
            stop = self._must_stop()
            save = stop or state.step == budget or state.step % request.checkpoint_every == 0
            if save or state.step % request.log_every == 0:
                state.seconds += self._clock() - started
                self._write_log()
                if save:
                    self._check_weights()
                    self._save()
                if stop and state.step < budget:
                    raise Interrupted(f"stopped at step {state.step}, checkpoint written")
                started = self._clock()
        if budget == 0:
            self._save()
        if self.run and self.accelerator.is_main_process:
            for rate in (*cell.averages, None):  # the target's last: where it is, all are
                save_ema(self.run.weights(budget, rate), cell.average(rate))
        self.accelerator.wait_for_everyone()

    def _must_stop(self) -> bool:
        """Whether to save and stop; several processes agree on it every `AGREE` steps only."""
        if self.accelerator.num_processes > 1 and self.state.step % AGREE:
            return False
        return self.stopping()

    def _write_log(self) -> None:
        """Log the mean of each loss term since the last line of the log.

        Raises:
            DivergedError: a term is not finite; names the first step and term.
        """
        if not self._logs:
            return
        first = self.state.step - len(self._logs)
        told = [(first + i, name) for i, log in enumerate(self._logs) for name in log]
        table = torch.stack([value.float() for log in self._logs for value in log.values()])
        self._logs = []
        table = table.cpu()  # the one host synchronisation per log interval
        if not table.isfinite().all():
            step, name = told[int((~table.isfinite()).nonzero()[0])]
            raise DivergedError(step, f"loss {name!r}")
        if self.run and self.accelerator.is_main_process:
            # a term may begin in the middle of an interval
            record = {
                name: float(table[[name == other for _, other in told]].mean())
                for name in dict.fromkeys(name for _, name in told)
            }
            self.run.log(
                {
                    "step": self.state.step,
                    "images": self.state.step * self.cell.spec.train["batch"],
                    "seconds": round(self.state.seconds, 4),
                    **record,
                }
            )
            if self.request.track:
                self.accelerator.log(record, step=self.state.step)

    def _check_weights(self) -> None:
        networks = [self.cell.network, *(each.module for each in self.cell.owned.values())]
        weights = (weight for network in networks for weight in network.parameters())
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise DivergedError(self.state.step, "a weight")

    def _save(self) -> None:
        if self.run and self.accelerator.is_main_process:
            save_checkpoint(self.run.checkpoints, self.state)
        self.accelerator.wait_for_everyone()

    def _clock(self) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        return time.perf_counter()
