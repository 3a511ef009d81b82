"""One optimizer step: loss terms, their balance, the sum over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.api import Batch, Dataset
from harness.backbones.dropout import hold_draws
from harness.train.cell import Cell

Gradients = list[Tensor]


def batches(
    dataset: Dataset, spec_seed: int, step: int, batch: int, micro: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's share of the global batch of `step`, in micro-batches.

    Slot k of the global batch holds sample number step * batch + k whatever the number of
    processes; a process takes one contiguous run of slots.
    """
    share = batch // accelerator.num_processes
    first = accelerator.process_index * share
    for start in range(first, first + share, micro):
        slots = torch.arange(start, start + micro, device=accelerator.device)
        numbers = step * batch + slots
        x0, labels = dataset.draw(spec_seed, "training data", numbers)
        x0 = x0.to(accelerator.device)
        if labels is not None:
            labels = labels.to(accelerator.device)
        yield Batch(x0, labels, numbers, slots, step, spec_seed)


def gradients(
    cell: Cell, step: int, micro: int, accelerator: Accelerator
) -> tuple[Gradients, dict[str, Tensor]]:
    """Gradients of the combined loss over the global batch, and each term's mean for the log.

    Terms are differentiated one after the other, so only one graph is alive at a time, and kept
    apart until the end: the adaptive weight of a term is then read off the last layer's gradients,
    with no sweep of its own through any network. It is measured on the global batch, so it does
    not depend on micro-batches or processes.
    """
    parameters = list(cell.network.parameters())
    last = next(i for i, p in enumerate(parameters) if p is cell.network.last_layer)
    batch = cell.spec.train["batch"]
    share = batch // accelerator.num_processes
    sums: dict[str, Gradients] = {}
    logs: dict[str, Tensor] = {}
    for part in batches(cell.dataset, cell.spec.seed, step, batch, micro, accelerator):
        for network in (cell.network, cell.target):
            hold_draws(network, part.seed, step, part.slots)
        terms = cell.objective.terms(cell.student, cell.ema_student, cell.teacher, part)
        for name, term in terms.items():
            with accelerator.autocast():
                loss = term() * (micro / share)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            grads = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, found, strict=True)
            ]
            if name in sums:
                torch._foreach_add_(sums[name], grads)
            else:
                sums[name] = grads
            logs[name] = logs.get(name, 0) + loss.detach()
    weights = balance({name: grads[last] for name, grads in sums.items()}, cell, accelerator)
    names = list(sums)
    total = sums[names[0]]
    for name in names[1:]:
        torch._foreach_add_(total, [g * weights[name] for g in sums[name]])
        logs[f"{name}_weight"] = weights[name]
    if accelerator.num_processes > 1:
        total = _mean_over_processes(total, accelerator)
        logs = {name: accelerator.reduce(value, "mean") for name, value in logs.items()}
    return total, logs


def balance(
    last_layer: dict[str, Tensor], cell: Cell, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Weight of each term: |grad of the first| / (|its grad| + 1e-4), clamped to [0, 1e4].

    Esser et al. 2021 (VQGAN), eq. 7, with CTM's constants; all 1 for an objective that is not
    adaptive.
    """
    one = torch.ones((), device=accelerator.device)
    names = list(last_layer)
    if not cell.objective.adaptive or len(names) < 2:
        return dict.fromkeys(names, one)
    lengths = {
        name: (accelerator.reduce(grad, "mean") if accelerator.num_processes > 1 else grad).norm()
        for name, grad in last_layer.items()
    }
    first = lengths[names[0]]
    return {names[0]: one} | {
        name: (first / (lengths[name] + 1e-4)).clamp(0, 1e4) for name in names[1:]
    }


def _mean_over_processes(grads: Gradients, accelerator: Accelerator) -> Gradients:
    """All-reduce as one flat buffer: one message instead of one per parameter."""
    flat = accelerator.reduce(torch.cat([g.flatten() for g in grads]), "mean")
    parts = flat.split([g.numel() for g in grads])
    return [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
