"""Building one cell: teacher, data, preconditioning, student and target, from a RunSpec."""

from __future__ import annotations

import copy
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from harness import api
from harness.api import Dataset, Objective, Preconditioning, Teacher
from harness.backbones.base import Backbone
from harness.config.plugins import check_command, resolve_dataset
from harness.contract import refuse_broken
from harness.core import probe
from harness.core.group import Group
from harness.core.random import derive_seed
from harness.core.student import Student
from harness.errors import ConfigError
from harness.registry import is_built_in, own_source
from harness.store.artifacts import Artifact, Parts, get_or_make
from harness.store.records import PluginSpec, RunSpec
from harness.train.fit import fitted_backbone, make_backbone
from harness.train.owned import Owned, own_modules


@dataclass
class Cell:
    """The objects of a cell. `target` is the EMA of `network` that the objective uses.

    The target is also evaluated, unless `averages`, further EMAs of the network by rate, are asked
    for. `owned` are the modules that the objective trains beside the network, by name; `frozen` is
    the copy of the target that the objective asked for (`Objective.freezes_at`).
    """

    spec: RunSpec
    teacher: Teacher
    dataset: Dataset
    objective: Objective
    precond: Preconditioning
    network: Backbone
    target: Backbone
    costs: dict[str, float]
    averages: dict[float, Backbone] = field(default_factory=dict)
    owned: dict[str, Owned] = field(default_factory=dict)
    frozen: Backbone | None = None

    @property
    def student(self) -> Student:
        """The network in training, with the preconditioning."""
        return Student(self.network, self.precond)

    @property
    def ema_student(self) -> Student:
        """The EMA network, with the same preconditioning."""
        return Student(self.target, self.precond)

    @property
    def networks(self) -> list[Backbone]:
        """The networks that a training step runs, without the teacher's."""
        return [self.network, self.target, *([self.frozen] if self.frozen else [])]

    def freeze(self, step: int) -> None:
        """Copy the target's weights to `frozen` if the objective asked for it at this step."""
        if self.frozen and step == self.objective.freezes_at():
            self.frozen.load_state_dict(self.target.state_dict())

    def average(self, ema: float | None) -> Backbone:
        """The EMA network of rate `ema`; the target for None."""
        return self.target if ema is None else self.averages[ema]

    def restart(self) -> None:
        """Reset the target and every average to the weights of the network, as at step 0."""
        for network in (self.target, *self.averages.values()):
            network.load_state_dict(self.network.state_dict())


def build_cell(
    spec: RunSpec, results: Path | None, device: torch.device, *, fit: bool = True
) -> Cell:
    """Make all objects of a cell; used by training, benchmarks and diagnostics alike.

    Args:
        results: the results folder whose artifacts hold calibrations and fitted backbones; None
            stores neither.
        fit: whether a backbone is fitted to a teacher that is not a network; if false, its weights
            are random, for callers to which they do not matter.

    Raises:
        ConfigError: the teacher or dataset has changed since the run was planned, or a plugin
            breaks its contract.
    """
    teacher: Teacher = api.create("teacher", spec.teacher.name, spec.teacher.params)
    dataset = resolve_dataset(spec.dataset, teacher)
    for name, now in (("teacher", teacher.spec.digest), ("dataset", dataset.spec.digest)):
        if spec.digests[name] != now:
            raise ConfigError(
                f"the {name} of run {spec.run_id} has changed since it was planned (digest"
                f" {spec.digests[name]} then, {now} now); run the grid again to start a new run"
            )
    teacher = teacher.to(device)
    precond, calibration = calibrated(spec.precond, teacher, dataset, results, device)
    objective: Objective = api.create("objective", spec.objective.name, spec.objective.params)
    command = check_command(spec)
    shape = teacher.spec.shape
    refuse_broken(precond, command, differentiates=objective.differentiates, shape=shape)
    costs = {"calibration_seconds": calibration.seconds if calibration else 0.0}
    if calibration:
        costs["calibration_evaluations"] = float(calibration.arrays["evaluations"])
    network = _initial_network(spec, teacher, dataset, results, device, fit).to(device)
    if objective.differentiates and not _told_smoothly(network, teacher):
        raise ConfigError(
            f"objective {spec.objective.label!r} differentiates the student along t, and the"
            f" network of teacher {spec.teacher.label!r} is told the nearest of its levels alone"
        )
    target = copy.deepcopy(network).requires_grad_(False)
    frozen = None
    if objective.freezes_at() is not None:
        frozen = copy.deepcopy(target)
        objective.frozen = Student(frozen, precond)
    return Cell(
        spec=spec,
        teacher=teacher,
        dataset=dataset,
        objective=objective,
        precond=precond.to(device),
        network=network,
        target=target,
        costs=costs,
        frozen=frozen,
        owned=own_modules(objective, teacher.spec, spec.train, spec.seed, device),
    )


def _told_smoothly(network: Backbone, teacher: Teacher) -> bool:
    """Whether c_noise(t) is continuous in t; iDDPM's is rounded to the nearest discrete level."""
    t = torch.tensor([teacher.spec.sigma_data], dtype=torch.float64)
    return network.c_noise(t).item() != network.c_noise(1.0001 * t).item()


def calibrated(
    plugin: PluginSpec,
    teacher: Teacher,
    dataset: Dataset,
    results: Path | None,
    device: torch.device,
) -> tuple[Preconditioning, Artifact | None]:
    """A calibrated preconditioning, and the artifact of its calibration (None for a closed form).

    The artifact's key is `Preconditioning.measured`, teacher, dataset and noise range. Seeds,
    budgets, objectives, and preconditionings with the same `measured`, share one calibration. In a
    process group every process must call this: the calibration is collective.
    """
    sigma = {
        "sigma_data": teacher.spec.sigma_data,
        "sigma_min": teacher.spec.sigma_min,
        "sigma_max": teacher.spec.sigma_max,
    }
    precond: Preconditioning = api.create("precond", plugin.name, plugin.params, **sigma)
    if not precond.needs_calibration():
        return precond, None
    key = {
        **precond.measured,
        "teacher": teacher.spec.digest,
        "dataset": dataset.spec.digest,
        **sigma,
    }
    definer = next(cls for cls in type(precond).__mro__ if "calibrate" in vars(cls))
    if source := own_source(definer):  # what was measured before an edit is not used
        key["source"] = source
    group = Group.current()
    code = _code(type(precond))
    parts = Parts(results, "calibration", key, code) if results and code else None

    def measure() -> dict:
        api.calibrate(precond, teacher, dataset=dataset, device=device, group=group, parts=parts)
        return {name: _array(precond, name, value) for name, value in precond.artifact.items()}

    artifact = group.together(
        lambda make: get_or_make(results, "calibration", key, make, parts), measure
    )
    loaded = {name: torch.from_numpy(value) for name, value in artifact.arrays.items()}
    return precond.load(loaded), artifact


def _code(cls: type) -> str:
    """Digest of the code that a calibration runs; empty if it cannot be read, as in a notebook."""
    files = set(Path(probe.__file__).parent.glob("*.py"))
    for base in cls.__mro__[:-1]:
        if not (name := getattr(sys.modules[base.__module__], "__file__", None)):
            return ""
        file = Path(name)
        whole = is_built_in(base) or (file.parent / "__init__.py").exists()
        files |= set(file.parent.rglob("*.py")) if whole else {file}
    found = hashlib.sha256(torch.__version__.encode())
    try:
        for file in sorted(files):
            found.update(file.read_bytes())
    except OSError:
        return ""
    return found.hexdigest()[:8]


def _array(precond: Preconditioning, name: str, value: torch.Tensor) -> np.ndarray:
    """One tensor of a calibration as a numpy array.

    Raises:
        ConfigError: it is not a dense tensor, or has a dtype that numpy lacks.
    """
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        kind = getattr(value, "layout", type(value).__name__)
        raise ConfigError(f"precond {precond.name!r}: calibrate gave {name!r} as {kind}, no tensor")
    try:
        return value.detach().cpu().resolve_conj().resolve_neg().numpy()
    except TypeError:
        raise ConfigError(
            f"precond {precond.name!r}: calibrate gave {name!r} as {value.dtype}; give float64"
        ) from None


def empty_network(spec: RunSpec, teacher: Teacher) -> Backbone:
    """The student's network on the CPU, whose weights are yet to be loaded."""
    network = make_backbone(teacher, spec.backbone) if spec.backbone else teacher.network()
    assert network is not None
    if spec.student:
        network.adapt(spec.student, seed=0)
    return network


def _initial_network(
    spec: RunSpec,
    teacher: Teacher,
    dataset: Dataset,
    results: Path | None,
    device: torch.device,
    fit: bool,
) -> Backbone:
    """The student at step 0: the teacher's own network, or a backbone fitted to it.

    Random initial weights depend on the run's seed. A fitted backbone does not: it takes the place
    of a teacher's weights, and all seeds start from the same one.
    """
    network = None if spec.backbone else teacher.network()
    random = spec.train["init"] == "random"
    # runs of an earlier version all drew the same
    weights = derive_seed(spec.seed, "initial weights") if "init_seeded" in spec.train else 0
    if network is None:
        settings = spec.backbone or {}
        if random or not fit:
            network = make_backbone(teacher, settings, weights)
        else:
            network, _ = fitted_backbone(teacher, dataset, settings, results, device)
    elif random:
        network.reset_parameters(weights)
    if spec.student:
        network.adapt(spec.student, derive_seed(spec.seed, "initial s branch"))
    return network
