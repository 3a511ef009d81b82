"""Modules that an objective trains beside the student, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.api import ConfigError, Objective, TeacherSpec, Trained
from harness.core.random import derive_seed
from harness.errors import described
from harness.registry import blaming, place
from harness.train.optimizer import Optimizer


@dataclass(frozen=True)
class Owned:
    """A module of an objective: `by` names the term that trains it; None: trained with the student.

    `follows`: whether its learning rate is the student's, warm-up included.
    """

    module: nn.Module
    optimizer: Optimizer
    by: str | None
    follows: bool


def own_modules(
    objective: Objective, spec: TeacherSpec, train: Mapping[str, Any], seed: int, device: Any
) -> dict[str, Owned]:
    """Make the modules of an objective, their initial weights drawn from the run's seed.

    Raises:
        ConfigError: `modules` did not return {name: Trained}, or a module has no trainable weight.
    """
    cls = type(objective)
    with torch.random.fork_rng(devices=[]), blaming("objective", cls, "modules"):
        torch.manual_seed(derive_seed(seed, "modules of the objective"))
        given: object = objective.modules(spec)
    where = f"objective {cls.name!r} ({place(cls, method='modules')}): modules"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} gave {described(given)}, expected {{name: Trained(module)}}")
    owned = {}
    for name, each in given.items():
        if not isinstance(each, Trained):
            raise ConfigError(
                f"{where} gave {name!r} = {described(each)}, which does not say how it is trained;"
                " expected Trained(module, by=..., lr=...)"
            )
        weights = [p for p in each.module.to(device).parameters() if p.requires_grad]
        if not weights:
            raise ConfigError(f"{where} gave {name!r} without a weight to train")
        kind, lr = each.optimizer or train["optimizer"], each.lr or train["lr"]
        optimizer = Optimizer(kind, weights, lr, each.betas)
        owned[name] = Owned(each.module.train(), optimizer, each.by, each.lr is None)
    return owned


def trained_with_student(owned: Mapping[str, Owned]) -> list[Owned]:
    """The modules that are trained by the same loss terms as the student."""
    return [each for each in owned.values() if each.by is None]


def trained_apart(owned: Mapping[str, Owned], terms: Iterable[str]) -> list[Owned]:
    """The modules that are trained by a term of their own, if that is one of `terms`."""
    names = set(terms)
    return [each for each in owned.values() if each.by in names]
