"""Run plugins on a few samples before the first cell starts, so that errors appear at once.

Built-in plugins with default settings are skipped: the test suite covers them. No network of a
teacher is loaded; the exact denoiser of Gaussian data takes its place.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor

from harness.api import (
    Batch,
    ConfigError,
    Dataset,
    Objective,
    Preconditioning,
    Teacher,
    calibrate,
    create,
    create_precond,
)
from harness.backbones.base import Backbone
from harness.backbones.contract import check_architecture
from harness.config.matrix import Matrix
from harness.config.plugins import check_command, is_untried, resolve_dataset
from harness.contract import refuse_broken
from harness.core.random import normal
from harness.core.sampling import Walk, evaluation_labels, fresh_noise, initial_noise
from harness.core.solver import per_sample
from harness.core.student import Student
from harness.errors import HarnessError, described
from harness.evaluate.images import is_image
from harness.registry import blaming, place, registry
from harness.store.records import PluginSpec, RunSpec
from harness.train.fit import make_backbone
from harness.train.owned import own_modules, trained_with_student
from harness.train.stand_ins import Banded, GaussianDenoiser, Noise
from harness.train.trial_metrics import try_extractor, try_metric

SAMPLES = 4
#: largest root mean square of data, in units of the teacher's sigma_data, without a note
TOO_LARGE = 10.0
#: the part of the grid's `train` section that modules of an objective need
TRAIN = {"optimizer": "adam", "lr": 1e-3}
#: calibration in a trial: noise levels, and limits of the number of samples (two per coordinate)
LEVELS, FEWEST, MOST = 12, 32, 1024
#: samples that a metric is tried on, at most
FEATURES = 1024
MLP = {"name": "mlp", "width": 16, "depth": 1}
SIZE: dict[str, Any] = {"channels": 8, "multipliers": [1], "blocks": 1}
UNET: dict[str, Any] = {"name": "unet", **SIZE}


def failures(matrix: Matrix, specs: Iterable[RunSpec]) -> list[str]:
    """One message for each plugin of these cells that fails, with its name, file and line."""
    tried: set[str] = set()
    wrong: dict[str, None] = {}
    for spec in specs:
        where = f"{spec.teacher} {spec.dataset}"
        setup = TrialSetup(spec)
        for what, trial in _trials(matrix, spec, setup):
            if f"{what} {where}" in tried:
                continue
            tried.add(f"{what} {where}")
            try:
                trial()
            except HarnessError as error:
                wrong[str(error)] = None
                if what in ("teacher", "dataset"):
                    return list(wrong)  # on which nothing else can be tried
    return list(wrong)


def _trials(
    matrix: Matrix, spec: RunSpec, setup: TrialSetup
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield (key, trial) for each plugin of a cell to be tried; equal keys need one trial only."""
    if is_untried("teacher", spec.teacher.name) and not setup.own.is_network:
        yield "teacher", setup.try_teacher
    if spec.dataset.name != "teacher" and is_untried("dataset", spec.dataset.name):
        yield "dataset", setup.try_dataset
    if spec.backbone and is_untried("backbone", spec.backbone["name"]):
        yield f"backbone {spec.backbone}", partial(setup.try_backbone, spec.backbone)
    if is_untried("precond", spec.precond.name):
        walks = list(dict.fromkeys((m.sampler, m.nfe) for m in matrix.wanted(spec)))
        yield f"{spec.precond} {spec.objective}", partial(setup.try_precond, spec, walks)
    if is_untried("objective", spec.objective.name, spec.objective.changed):
        yield f"{spec.objective}", partial(setup.try_objective, spec.objective)
    for name in matrix.extractors:
        if is_untried("extractor", name):
            yield f"extractor {name}", partial(try_extractor, name, setup.own.spec.shape)
    for label in matrix.request.metrics:
        plugin = matrix.request.metric_plugin(label)
        if is_untried("metric", **plugin):
            n = min(matrix.request.samples, FEATURES)
            given = (plugin, matrix.extractors, n, setup.own.spec.shape)
            yield f"metric {label}", partial(try_metric, *given)


class TrialSetup:
    """The setting of trials for one cell: a teacher or its stand-in, data, and a tiny network."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec

    @cached_property
    def own(self) -> Teacher:
        """The cell's own teacher; if it is a network, it is not run."""
        made: Teacher = create("teacher", self.spec.teacher.name, self.spec.teacher.params)
        return made

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher that is run: the cell's own, or a stand-in if that is a network."""
        return cast(Teacher, GaussianDenoiser(self.own)) if self.own.is_network else self.own

    @cached_property
    def dataset(self) -> Dataset:
        """Clean data: the cell's own, or Gaussian data if the teacher is a network."""
        return (
            Noise(self.own) if self.own.is_network else resolve_dataset(self.spec.dataset, self.own)
        )

    @cached_property
    def network(self) -> Backbone:
        """A tiny backbone for the teacher's sample shape, with arbitrary weights."""
        shape = self.own.spec.shape
        return make_backbone(self.own, UNET if is_image(shape) else MLP)

    def student(self, precond: Preconditioning | None = None) -> Student:
        """The tiny network with a preconditioning, by default `ctm` with a basis of one band."""
        if precond is not None:
            return Student(self.network, precond)
        student = Banded(self.network, create_precond("ctm", **self.range))
        student.shape = self.own.spec.shape
        return student

    @property
    def range(self) -> dict[str, float]:
        """sigma_data, sigma_min and sigma_max of the teacher, as arguments of a preconditioning."""
        spec = self.own.spec
        return {key: getattr(spec, key) for key in ("sigma_data", "sigma_min", "sigma_max")}

    def try_teacher(self) -> None:
        """Check shape, dtype and finiteness of D(x, sigma) at the lowest and highest level."""
        spec, cls = self.own.spec, type(self.own)
        low, high = spec.sigma_min, spec.sigma_max
        sigma = torch.tensor([low, high] * (SAMPLES // 2), dtype=torch.float64)
        x = normal(0, "trial", 0, torch.arange(SAMPLES), spec.shape, torch.float32)
        labels = evaluation_labels(0, torch.arange(SAMPLES), spec.classes)
        with blaming("teacher", cls, "denoise"), torch.no_grad():
            found: object = self.own.denoise(per_sample(sigma, x) * x, sigma, labels)
        where = f"teacher {cls.name!r} ({place(cls, method='denoise')}): denoise gave"
        if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
            raise ConfigError(
                f"{where} {described(found)}, expected the dtype and shape of x, float32"
                f" {list(x.shape)}"
            )
        if not found.isfinite().all():
            raise ConfigError(f"{where} values that are not finite, at sigma {low} and {high}")

    def try_dataset(self, *, any_shape: bool = False) -> tuple[int, ...]:
        """Check shape, dtype and finiteness of a few samples; return the shape of one.

        With `any_shape` it need not be that of the teacher.
        """
        dataset = resolve_dataset(self.spec.dataset, self.own)
        cls, numbers = type(dataset), torch.arange(SAMPLES)
        with blaming("dataset", cls, "draw"):
            drawn: object = dataset.draw(0, "trial", numbers)
        where = f"dataset {cls.name!r} ({place(cls, method='draw')}): draw gave"
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise ConfigError(f"{where} {described(drawn)}, expected (samples, labels or None)")
        x0: object = drawn[0]
        own = dataset.spec.shape if any_shape else self.own.spec.shape
        shape = torch.Size((SAMPLES, *own))
        if not isinstance(x0, Tensor) or x0.shape != shape or x0.dtype != torch.float32:
            raise ConfigError(f"{where} {described(x0)}, expected float32 samples {list(shape)}")
        if not x0.isfinite().all():
            raise ConfigError(f"{where} samples that are not finite")
        size = float(x0.double().square().mean().sqrt())
        sigma_data = self.own.spec.sigma_data
        if size > TOO_LARGE * sigma_data:
            warnings.warn(
                f"dataset {cls.name!r} ({place(cls, method='draw')}): samples have a root mean"
                f" square of {size:.3g}, the teacher's data one of about {sigma_data:.3g}: are"
                " they scaled to [-1, 1]?",
                stacklevel=2,
            )
        return own

    def try_precond(self, cell: RunSpec, walks: Iterable[tuple[str, int]]) -> None:
        """Calibrate, and check coefficients, jump, implied denoiser and every (sampler, NFE)."""
        plugin = cell.precond
        cls = registry.get("precond", plugin.name)
        with blaming("precond", cls):
            precond: Preconditioning = create("precond", plugin.name, plugin.params, **self.range)
        if precond.needs_calibration():
            draws = min(max(FEWEST, 2 * math.prod(self.own.spec.shape)), MOST)
            try:
                with blaming("precond", cls, "calibrate"):
                    calibrate(
                        precond, self.teacher, levels=LEVELS, samples=draws, dataset=self.dataset
                    )
            except ConfigError as error:
                if isinstance(error.__cause__, torch.linalg.LinAlgError):
                    return  # of few samples, which says nothing of many
                raise
        refuse_broken(precond, check_command(cell))
        spec, student, indices = self.own.spec, self.student(precond), torch.arange(SAMPLES)
        noise = initial_noise(0, indices, spec.shape, spec.sigma_max, torch.float32)
        fresh = fresh_noise(0, indices, spec.shape)
        labels = evaluation_labels(0, indices, spec.classes)
        t = torch.full((SAMPLES,), spec.sigma_max, dtype=torch.float64)
        found = {}
        with blaming("precond", cls, "coeffs"), torch.no_grad():
            found["the jump to sigma_min"] = student.jump(
                noise, t, torch.full_like(t, spec.sigma_min), labels
            )
            found["the implied denoiser"] = student.denoise(noise, t, labels)
            for sampler, nfe in walks:
                walk = Walk.of(sampler, nfe, spec, self._trained(cell.objective))
                found[f"sampler {sampler} at NFE {nfe}"] = walk.end(student, noise, fresh, labels)
        for what, value in found.items():
            if value.shape != noise.shape or not value.isfinite().all():
                how = "not finite" if value.shape == noise.shape else described(value)
                raise ConfigError(
                    f"precond {plugin.name!r} ({place(cls, method='coeffs')}): {what} is {how}, of"
                    f" {SAMPLES} samples {list(spec.shape)} and a network that is"
                )

    def _trained(self, plugin: PluginSpec) -> Tensor | None:
        """`Objective.trained_times`; None if it does not return a tensor."""
        objective: Objective = create("objective", plugin.name, plugin.params)
        times: object = objective.trained_times(self.own.spec)
        return times if isinstance(times, Tensor) else None

    def try_backbone(self, settings: Mapping[str, Any]) -> None:
        """Check the contract of a backbone on samples of the teacher's shape."""
        name = settings["name"]
        cls = registry.get("backbone", name)
        params = {key: value for key, value in settings.items() if key in cls.Params.model_fields}
        for finding in check_architecture(create("backbone", name, params), self.own.spec):
            if not finding.ok:
                raise ConfigError(f"backbone {name!r}: {finding.check}: {finding.detail}")

    def try_objective(self, plugin: PluginSpec) -> None:
        """Check the training grid of an objective, and each loss term with its gradient."""
        cls = registry.get("objective", plugin.name)
        with blaming("objective", cls):
            objective: Objective = create("objective", plugin.name, plugin.params)
        self._try_times(objective)
        with blaming("dataset", type(self.dataset), "draw"):
            x0, labels = self.dataset.draw(0, "trial", torch.arange(SAMPLES))
        batch_index = torch.arange(SAMPLES)
        batch = Batch(x0, labels, batch_index, batch_index, 0, 0)
        student, target = self.student(), copy.deepcopy(self.student())
        owned = own_modules(objective, self.own.spec, TRAIN, 0, batch.x0.device)
        with blaming("objective", cls, "terms"):
            terms: object = objective.terms(student, target, self.teacher, batch)
        where = place(cls, method="terms")
        if not isinstance(terms, Mapping) or not terms:
            raise ConfigError(
                f"objective {plugin.name!r} ({where}): terms gave {described(terms)}, expected"
                " {name: function that gives the loss}"
            )
        own = {each.by: each.optimizer.parameters for each in owned.values() if each.by}
        shared = [p for each in trained_with_student(owned) for p in each.optimizer.parameters]
        reached: set[Tensor] = set()
        for name, term in terms.items():
            learn = own.get(name, [*self.network.parameters(), *shared])
            reached |= self._try_term(cls, name, term, learn)
        if set(own) >= set(terms):
            raise ConfigError(f"objective {plugin.name!r} ({where}): no term trains the student")
        for name, each in owned.items():
            if each.by in (None, *terms) and reached.isdisjoint(each.optimizer.parameters):
                raise ConfigError(
                    f"objective {plugin.name!r} ({where}): no term depends on its module {name!r}"
                )

    def _try_term(
        self, cls: type[Objective], name: str, term: Any, learn: list[Tensor]
    ) -> set[Tensor]:
        """Check loss and gradient of one term; return the parameters that have a gradient."""
        where = f"objective {cls.name!r} ({place(cls, method='terms')}): term {name!r}"
        if not callable(term):
            raise ConfigError(
                f"{where} is {described(term)}, expected a function that gives the loss"
            )
        with blaming("objective", cls, "terms"):
            loss: object = term()
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise ConfigError(f"{where} gave {described(loss)}, expected a scalar tensor")
        if not loss.isfinite():
            raise ConfigError(f"{where} is {float(loss.detach())} on {SAMPLES} samples")
        if not loss.requires_grad:
            raise ConfigError(f"{where} does not depend on the student: there is nothing to train")
        with blaming("objective", cls, "terms"):
            grads = torch.autograd.grad(loss, learn, allow_unused=True)
        found = {p: g for p, g in zip(learn, grads, strict=True) if g is not None}
        if not all(grad.isfinite().all() for grad in found.values()):
            raise ConfigError(f"{where} has a gradient that is not finite, on {SAMPLES} samples")
        return set(found)

    def _try_times(self, objective: Objective) -> None:
        cls, spec = type(objective), self.own.spec
        with blaming("objective", cls, "trained_times"):
            times: object = objective.trained_times(spec)
        if times is None:
            return
        where = f"objective {cls.name!r} ({place(cls, method='trained_times')}): trained_times"
        if not isinstance(times, Tensor) or times.dim() != 1 or len(times) < 2:
            raise ConfigError(f"{where} gave {described(times)}, expected a float64 tensor [N]")
        ends = torch.tensor([spec.sigma_max, spec.sigma_min], dtype=torch.float64)
        if not torch.allclose(times[[0, -1]].double(), ends) or not (times.diff() < 0).all():
            raise ConfigError(
                f"{where} must decrease from sigma_max {spec.sigma_max:g} to sigma_min"
                f" {spec.sigma_min:g}, got {', '.join(f'{t:g}' for t in times.tolist())}"
            )
