"""Making the plugins that a grid names, once each, so that all that is wrong is told at once."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api import Dataset, DatasetSpec, Objective, Teacher, create, make_params
from harness.config.schema import PluginRef, ReferenceFile
from harness.core.sampler import Sampler
from harness.errors import HarnessError
from harness.home import without_home
from harness.registry import own_source, registry
from harness.store.records import PluginSpec, RunSpec

log = logging.getLogger(__name__)
#: what a strategy is told of the teacher it is made for
SIGMA = ("sigma_data", "sigma_min", "sigma_max")


class Workshop:
    """Plugins of a grid, each made once; what cannot be made is noted, so that all is told at once.

    Attributes:
        broken: why plugins could not be made. A grid with one does not run.
        absent: why datasets could not be made. Their cells are skipped.
    """

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.absent: dict[tuple[str, str], str] = {}
        self._specs: dict[str, PluginSpec] = {}
        self._teachers: dict[str, Teacher | None] = {}
        self._made: set[str] = set()
        self._data: dict[tuple[str, str], DatasetSpec | str] = {}

    def spec(self, axis: str, ref: PluginRef) -> PluginSpec | None:
        """The plugin with all its parameters, or None if they are refused."""
        key = f"{axis} {ref!r}"
        if key not in self._specs and key not in self.broken:
            try:
                self._specs[key] = plugin_spec(axis, ref)
            except HarnessError as error:
                self.broken[key] = str(error)
        return self._specs.get(key)

    def references(self, files: Mapping[str, ReferenceFile]) -> dict[str, dict[str, Any]]:
        """Files of statistics by extractor, known by the beginning of their digest."""
        found = {}
        for name, reference in files.items():
            path = Path(reference.file).expanduser()
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
            except OSError as error:
                self.broken[f"reference {name}"] = (
                    f"evaluate.references.{name}.file: {path} cannot be read ({error.strerror})"
                )
                continue
            found[name] = {"file": str(path.resolve()), "n": reference.n, "digest": digest}
        return found

    def teacher(self, spec: PluginSpec | None) -> Teacher | None:
        """The teacher, or None if it is broken."""
        if spec is None:
            return None
        key = f"{spec.name} {spec.params}"  # not the label: that leaves the folder of a file out
        if key not in self._teachers:
            self._teachers[key] = None
            try:
                self._teachers[key] = create("teacher", spec.name, spec.params)
            except HarnessError as error:
                self.broken[key] = str(error)
        return self._teachers[key]

    def fits(self, precond: PluginSpec, teacher: Teacher) -> None:
        """Note a strategy that cannot be made for a teacher, whose noise range it works in."""
        sigma = {name: getattr(teacher.spec, name) for name in SIGMA}
        key = f"{precond.name} {precond.params} for {sigma}"
        if key in self._made:
            return
        self._made.add(key)
        try:
            create("precond", precond.name, precond.params, **sigma)
        except HarnessError as error:
            self.broken[key] = str(error)
        except Exception:
            log.debug("left to the cell, which fails alone", exc_info=True)

    def samplers(
        self, names: Sequence[str], plugins: Mapping[str, PluginSpec], teacher: Teacher
    ) -> None:
        """Note samplers whose levels do not suit a teacher, or its objective's grid."""
        objective = plugins["objective"]
        has_grid = registry.get("objective", objective.name).trained_times
        for name in names:
            sampler = Sampler.read(name)
            reason = sampler.misfit(teacher.spec.sigma_min, teacher.spec.sigma_max)
            if sampler.times == "trained" and has_grid is Objective.trained_times:
                reason = (
                    f"sampler {name!r}: objective {objective.name!r} trains at continuous times and"
                    " has no grid of its own; use karras times or a list"
                )
            if reason:
                self.broken[f"{name} {reason}"] = f"evaluate.samplers: {reason}"

    def dataset(self, spec: PluginSpec | None, teacher: Teacher | None) -> DatasetSpec | str:
        """What the dataset is, or why it cannot be had."""
        if spec is None:
            return "its dataset is broken"
        own = spec.name == "teacher"
        if own and teacher is None:
            return "its data are those of a teacher that is broken"
        key = (f"{spec.name} {spec.params}", str(id(teacher)) if own else "")
        if key not in self._data:
            try:
                self._data[key] = resolve_dataset(spec, teacher).spec
            except HarnessError as error:
                self._data[key] = self.absent[key] = str(error)
        return self._data[key]


def resolve_dataset(spec: PluginSpec, teacher: Teacher | None) -> Dataset:
    """The dataset of a cell; the name `teacher` stands for the teacher's own."""
    if spec.name == "teacher" and teacher is not None:
        return teacher.dataset()
    made: Dataset = create("dataset", spec.name, spec.params)
    return made


def plugin_spec(axis: str, ref: PluginRef) -> PluginSpec:
    """A plugin of a grid with all its parameters, defaults filled in."""
    cls = registry.get(axis, ref.name)
    params = make_params(axis, ref.name, ref.params)
    full = _told(params.model_dump(mode="json"))
    default = {
        key: _told(field.get_default(call_default_factory=True))
        for key, field in type(params).model_fields.items()
    }
    changed = {key: value for key, value in full.items() if value != default[key]}
    located = [
        key
        for key, field in type(params).model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("located")
    ]
    full, changed = without_home(full), without_home(changed)
    return PluginSpec(ref.name, cls.revision, full, changed, located)


def _told(value: Any) -> Any:
    """Plain data as JSON can hold them: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def own_sources(spec: RunSpec) -> dict[str, str]:
    """axis -> digest of its plugin's file, for plugins that are not the harness's own."""
    found = {}
    for axis in ("precond", "teacher", "objective", "dataset"):
        name = getattr(spec, axis).name
        if (axis, name) == ("dataset", "teacher"):
            continue  # the teacher's own data are not a plugin
        if digest := own_source(registry.get(axis, name)):
            found[axis] = digest
    return found
