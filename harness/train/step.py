"""One optimizer step: loss terms, their adaptive weights, sums over micro-batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.api import Batch, Dataset
from harness.api.objective import misfit_of_groups
from harness.backbones.dropout import hold_draws
from harness.core.transfer import sent
from harness.errors import ConfigError
from harness.train.cell import Cell
from harness.train.optimizer import Optimizer, learning_rate
from harness.train.owned import trained_apart, trained_with_student

Gradients = list[Tensor]
#: called with the name of each part of a step; the context surrounds it, for timing (harness/bench)
Watch = Callable[[str], AbstractContextManager]


def unwatched(part: str) -> AbstractContextManager:
    """The default `Watch`, which does nothing."""
    return nullcontext()


def take_step(
    cell: Cell,
    optimizer: Optimizer,
    step: int,
    micro: int,
    accelerator: Accelerator,
    watch: Watch = unwatched,
) -> dict[str, Tensor]:
    """Do training step `step`: gradients, learning rate, optimizer, EMA; return values to log.

    Nothing in it waits for the device, so that the host can run ahead; logs stay on the device.
    """
    train = cell.spec.train
    cell.freeze(step)
    grads, logs = gradients(cell, step, micro, accelerator, watch)
    with watch("optimizer"):
        optimizer.lr = learning_rate(train, step)
        optimizer.step(grads[: len(optimizer.parameters)])
        at = len(optimizer.parameters)
        for each in (*trained_with_student(cell.owned), *trained_apart(cell.owned, logs)):
            if each.follows:
                each.optimizer.lr = optimizer.lr
            count = len(each.optimizer.parameters)
            each.optimizer.step(grads[at : at + count])
            at += count
    with watch("ema"), torch.no_grad():
        parameters = list(cell.network.parameters())
        for rate, network in ((train["ema"], cell.target), *cell.averages.items()):
            torch._foreach_lerp_(list(network.parameters()), parameters, 1 - rate)
    return logs


def batches(
    dataset: Dataset, spec_seed: int, step: int, batch: int, micro: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's share of the global batch of `step`, in micro-batches.

    Position k of the global batch holds sample step * batch + k for any number of processes; each
    process takes one contiguous part of the batch.
    """
    share = batch // accelerator.num_processes
    first = accelerator.process_index * share
    for start in range(first, first + share, micro):
        host_batch_index = torch.arange(start, start + micro)
        sample_index = step * batch + host_batch_index
        x0, labels = dataset.draw(spec_seed, "training data", sample_index)
        yield Batch(
            sent(x0, accelerator.device),
            None if labels is None else sent(labels, accelerator.device),
            sample_index,
            torch.arange(start, start + micro, device=accelerator.device),
            step,
            spec_seed,
            host_batch_index,
        )


def gradients(
    cell: Cell,
    step: int,
    micro: int,
    accelerator: Accelerator,
    watch: Watch = unwatched,
) -> tuple[Gradients, dict[str, Tensor]]:
    """Gradients of the combined loss over the global batch, and the mean of each term for the log.

    Gradients are listed in the order of the network's parameters, the modules trained with it, and
    the modules whose own term occurred in this step.

    The adaptive weight of a term is measured on the global batch, so that it does not depend on
    micro-batches or processes; or on `Objective.adaptive_batch` samples at a time, which then also
    limits the micro-batch.

    Raises:
        ConfigError: this process's share of the batch is not a multiple of `adaptive_batch`.
    """
    share = cell.spec.train["batch"] // accelerator.num_processes
    group = cell.objective.adaptive_batch or share
    if share % group:
        raise ConfigError(misfit_of_groups(group, share))
    micro = math.gcd(micro, group)
    parts = batches(
        cell.dataset, cell.spec.seed, step, cell.spec.train["batch"], micro, accelerator
    )
    total: Gradients = []
    logs: dict[str, Tensor] = {}
    for _ in range(share // group):
        found, told = _group_gradients(cell, parts, group // micro, accelerator, watch)
        if total:
            torch._foreach_add_(total, found)
        else:
            total = found
        logs = {name: logs.get(name, 0) + value for name, value in told.items()}
    if share > group:
        torch._foreach_mul_(total, group / share)
        logs = {name: value * (group / share) for name, value in logs.items()}
    if accelerator.num_processes > 1:
        total = _mean_over_processes(total, accelerator)
        logs = {name: accelerator.reduce(value, "mean") for name, value in logs.items()}
    return total, logs


def _group_gradients(
    cell: Cell, parts: Iterator[Batch], count: int, accelerator: Accelerator, watch: Watch
) -> tuple[Gradients, dict[str, Tensor]]:
    """Gradients and logs of the next `count` micro-batches, which share their adaptive weights.

    Terms are differentiated one after the other, so that only one graph is in memory, and their
    gradients are kept apart: adaptive weights follow from those of the last layer, without a
    backward pass of their own.
    """
    parameters = list(cell.network.parameters())
    last = next(i for i, p in enumerate(parameters) if p is cell.network.last_layer)
    parameters += [
        p for each in trained_with_student(cell.owned) for p in each.optimizer.parameters
    ]
    own = {each.by: each.optimizer.parameters for each in cell.owned.values() if each.by}
    sums: dict[str, Gradients] = {}
    logs: dict[str, Tensor] = {}
    for _ in range(count):
        with watch("data"):
            part = next(parts)
        for network in cell.networks:
            hold_draws(network, part.seed, part.step, part.batch_index)
        terms = cell.objective.terms(cell.student, cell.ema_student, cell.teacher, part)
        for name, term in terms.items():
            learn = own.get(name, parameters)
            with watch(name):
                with accelerator.autocast():
                    loss = term() * (1 / count)
                found = torch.autograd.grad(loss, learn, allow_unused=True)
            grads = _apart(found, learn)
            if name in sums:
                torch._foreach_add_(sums[name], grads)
            else:
                sums[name] = grads
            logs[name] = logs.get(name, 0) + loss.detach()
    names = [name for name in sums if name not in own]
    weights = balance({name: sums[name][last] for name in names}, cell, accelerator)
    total = sums[names[0]]
    for name in names[1:]:
        torch._foreach_mul_(sums[name], weights[name])
        torch._foreach_add_(total, sums[name])
        logs[f"{name}_weight"] = weights[name]
    for each in trained_apart(cell.owned, sums):
        total += sums[str(each.by)]
    return total, logs


def _apart(found: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Gradients:
    """Gradients as tensors with memory of their own, for in-place sums; None becomes zeros.

    Autograd may return the same tensor for two parameters, or an expanded one.
    """
    taken: set[int] = set()
    grads = []
    for grad, parameter in zip(found, parameters, strict=True):
        if grad is None:
            grad = torch.zeros_like(parameter)
        place = grad.untyped_storage().data_ptr()
        grads.append(grad.clone() if place in taken or 0 in grad.stride() else grad)
        taken.add(place)
    return grads


def balance(
    last_layer: dict[str, Tensor], cell: Cell, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Adaptive weight of each term: |grad of the first| / (|its grad| + 1e-4), within [0, 1e4].

    Esser et al. 2021 (VQGAN), eq. 7, with CTM's constants; gradients at the last layer. Terms in
    `Objective.weight_limits` are clamped to those limits instead; all others have weight 1 if the
    objective is not adaptive.
    """
    one = torch.ones((), device=accelerator.device)
    names, limits = list(last_layer), cell.objective.weight_limits
    weighted = [n for n in names[1:] if n in limits or cell.objective.adaptive]
    if not weighted:
        return dict.fromkeys(names, one)
    shared = accelerator.num_processes > 1 and cell.objective.adaptive_batch is None
    lengths = {
        name: (accelerator.reduce(grad, "mean") if shared else grad).norm()
        for name, grad in last_layer.items()
    }
    first = lengths[names[0]]
    return dict.fromkeys(names, one) | {
        name: (first / (lengths[name] + 1e-4)).clamp(*limits.get(name, (0, 1e4)))
        for name in weighted
    }


def _mean_over_processes(grads: Gradients, accelerator: Accelerator) -> Gradients:
    """Average gradients over processes by one all-reduce of a flat buffer."""
    flat = accelerator.reduce(torch.cat([g.flatten() for g in grads]), "mean")
    parts = flat.split([g.numel() for g in grads])
    return [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
