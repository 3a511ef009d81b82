"""Registering plugins, and making them by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from harness.api.architecture import Architecture
from harness.api.evaluation import Extractor, Metric
from harness.api.objective import Objective
from harness.api.plugin import Plugin
from harness.api.preconditioning import Preconditioning
from harness.api.student import StudentFormat
from harness.api.teacher import Dataset, Teacher, TeacherSpec
from harness.errors import ConfigError, complaint, described
from harness.home import with_home
from harness.registry import place, registry

if TYPE_CHECKING:
    from harness.core.group import Group
    from harness.core.protocols import Parts

C = TypeVar("C", bound=type[Plugin])


def _decorator(kind: str, base: type[Plugin]) -> Callable[[str], Callable[[C], C]]:
    registry.bases[kind] = base

    def register(name: str) -> Callable[[C], C]:
        def add(cls: C) -> C:
            if not (isinstance(cls, type) and issubclass(cls, base)):
                raise ConfigError(f"{kind} {name!r}: {cls!r} is not a subclass of {base.__name__}")
            registry.add(kind, name, cls)
            return cls

        return add

    register.__doc__ = f"Class decorator: make a {base.__name__} known under a name."
    return register


register_precond = _decorator("precond", Preconditioning)
register_teacher = _decorator("teacher", Teacher)
register_objective = _decorator("objective", Objective)
register_backbone = _decorator("backbone", Architecture)
register_dataset = _decorator("dataset", Dataset)
register_extractor = _decorator("extractor", Extractor)
register_metric = _decorator("metric", Metric)
register_student = _decorator("student", StudentFormat)


def make_params(kind: str, name: str, params: Mapping[str, Any]) -> Any:
    """Validate parameters of a plugin against its `Params`; `~` in a path is the home folder.

    Raises:
        ConfigError: unknown plugin, unknown key (with the nearest one) or a value of wrong type.
    """
    from pydantic import ValidationError

    model = registry.get(kind, name).Params
    try:
        return model.model_validate(with_home(dict(params)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = complaint(first, model.model_fields).replace("unknown key", "unknown parameter", 1)
        raise ConfigError(f"{kind} {name!r}: {key or 'parameters'}: {what}") from None


def create(kind: str, name: str, params: Mapping[str, Any] | None = None, **context: Any) -> Any:
    """Make a plugin of any kind from its name and plain parameters.

    Raises:
        ConfigError: no such plugin, invalid parameters or an invalid combination of them, or a
            teacher whose spec lacks 0 < sigma_min < sigma_max < inf or 0 < sigma_data < inf.
    """
    checked = make_params(kind, name, params or {})
    try:
        made = registry.get(kind, name)(checked, **context)
    except ArithmeticError as error:
        raise ConfigError(
            f"{kind} {name!r}: its parameters do not go together ({type(error).__name__}: {error})"
        ) from error
    if isinstance(made, Teacher) and isinstance(getattr(made, "spec", None), TeacherSpec):
        _check_range(name, made.spec)
    return made


def _check_range(name: str, spec: TeacherSpec) -> None:
    low, high, sd = spec.sigma_min, spec.sigma_max, spec.sigma_data
    if not 0 < low < high < math.inf:
        raise ConfigError(
            f"teacher {name!r}: need 0 < sigma_min < sigma_max, got {low:g} and {high:g}"
        )
    if not 0 < sd < math.inf:
        raise ConfigError(f"teacher {name!r}: the deviation of its data (sigma_data) is {sd:g}")


def create_precond(
    name: str,
    *,
    sigma_data: float,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    **params: Any,
) -> Preconditioning:
    """Make a preconditioning, e.g. `create_precond("ctm", sigma_data=0.5, outer="variance")`."""
    context = {"sigma_data": sigma_data, "sigma_min": sigma_min, "sigma_max": sigma_max}
    made: Preconditioning = create("precond", name, params, **context)
    return made


def create_teacher(name: str, **params: Any) -> Teacher:
    """Make a teacher, e.g. `create_teacher("gmm", preset="ring")`."""
    made: Teacher = create("teacher", name, params)
    return made


def calibrate(
    precond: Preconditioning,
    teacher: Teacher,
    *,
    levels: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    dataset: Dataset | None = None,
    device: Any = "cpu",
    group: Group | None = None,
    parts: Parts | None = None,
) -> Preconditioning:
    """Measure `teacher` on its data and load the result into `precond`, which is returned.

    `levels` (default 120, uniform in -log sigma) and `samples` (default 4096 per level) override
    the preconditioning's own parameters. A closed-form preconditioning is returned as it is. The
    processes of a `group` share the work: each must call this, and each gets the same result. The
    cost is added to the artifact: `evaluations`, the number of teacher evaluations (batch size 1),
    and `seconds`. With a tolerance, so is the `standard_error` that was reached; it is above the
    tolerance if all samples were too few. `parts`: where an interrupted calibration is continued
    from.

    Raises:
        ConfigError: the plugin's `calibrate` did not return {name: tensor}.
    """
    if not precond.needs_calibration():
        return precond
    import torch

    from harness.core.probe import Probe

    if levels is None:
        levels = getattr(precond.params, "levels", 120)
    if samples is None:
        samples = getattr(precond.params, "samples", 4096)
    probe = Probe(
        teacher,
        dataset if dataset is not None else teacher.dataset(),
        levels=levels,
        samples=samples,
        tolerance=getattr(precond.params, "tolerance", None),
        sigma_min=precond.sigma_min,
        sigma_max=precond.sigma_max,
        seed=seed,
        device=device,
        group=group,
        parts=parts,
    )
    started = time.perf_counter()
    with torch.no_grad():
        found = precond.calibrate(probe)
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        where = place(type(precond), method="calibrate")
        raise ConfigError(
            f"precond {precond.name!r} ({where}): calibrate gave {described(found)}, expected"
            " {name: tensor}"
        )
    # what it cost belongs beside every speed-up: recorded here, so that no plugin has to
    cost = {"evaluations": probe.evaluations, "seconds": time.perf_counter() - started}
    cost["seconds"] += parts.seconds if parts else 0.0
    if probe.error is not None:
        cost["standard_error"] = probe.error
    spent = {k: torch.tensor(float(v), dtype=torch.float64) for k, v in cost.items()}
    return precond.load({**found, **spent})


def list_preconds() -> list[str]:
    """Names of all preconditionings."""
    return registry.names("precond")


def list_teachers() -> list[str]:
    """Names of all teachers."""
    return registry.names("teacher")


def list_objectives() -> list[str]:
    """Names of all objectives."""
    return registry.names("objective")


def list_backbones() -> list[str]:
    """Names of all architectures of students' networks."""
    return registry.names("backbone")


def list_students() -> list[str]:
    """Names of all formats that trained students are read from."""
    return registry.names("student")


def list_datasets() -> list[str]:
    """Names of all datasets."""
    return registry.names("dataset")


def list_extractors() -> list[str]:
    """Names of all feature extractors."""
    return registry.names("extractor")


def list_metrics() -> list[str]:
    """Names of all metrics."""
    return registry.names("metric")
