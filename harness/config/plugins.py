"""Create the plugins of a grid once each, and collect all errors, not only the first."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api import (
    Dataset,
    DatasetSpec,
    Objective,
    Preconditioning,
    Teacher,
    TeacherSpec,
    create,
    make_params,
)
from harness.api.objective import misfit_of_groups
from harness.config.schema import PluginRef, ReferenceFile
from harness.core.sampler import Sampler
from harness.errors import ConfigError, HarnessError, described
from harness.home import without_home
from harness.registry import blaming, is_built_in, own_source, place, plugin_file, registry
from harness.store.records import Measure, PluginSpec, Request, RunSpec, revised

AXES = ("precond", "teacher", "objective", "dataset")

log = logging.getLogger(__name__)
#: what a preconditioning is told of the teacher it is made for
SIGMA = ("sigma_data", "sigma_min", "sigma_max")


class GridPlugins:
    """The plugins of a grid, each created once; errors are collected in `broken` and `absent`.

    Attributes:
        broken: reasons why plugins could not be created; a grid with one does not run.
        absent: reasons why datasets could not be created; their cells are skipped.
    """

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.absent: dict[tuple[str, str], str] = {}
        self._specs: dict[str, PluginSpec] = {}
        self._teachers: dict[str, Teacher | None] = {}
        self._preconds: dict[str, Preconditioning | None] = {}
        self._objectives: dict[str, Objective | None] = {}
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
                with blaming("teacher", registry.get("teacher", spec.name)):
                    self._teachers[key] = _specified("teacher", spec, TeacherSpec)
            except HarnessError as error:
                self.broken[key] = str(error)
        return self._teachers[key]

    def suited(self, objective: PluginSpec, precond: PluginSpec, teacher: Teacher) -> str:
        """Why an objective cannot train a preconditioning for a teacher; empty if it can.

        A preconditioning that cannot be made for the teacher, whose noise range it works in, is
        noted.
        """
        sigma = {name: getattr(teacher.spec, name) for name in SIGMA}
        key = f"{precond.name} {precond.params} for {sigma}"
        if key not in self._preconds:
            self._preconds[key] = None
            try:
                self._preconds[key] = create("precond", precond.name, precond.params, **sigma)
            except HarnessError as error:
                self.broken[key] = str(error)
            except Exception:
                log.debug("left to the cell, which fails alone", exc_info=True)
        made, loss = self._preconds[key], self.objective(objective)
        if made is None or loss is None:
            return ""
        with blaming("objective", type(loss), "unsuited"):
            return loss.unsuited(teacher.spec, made)

    def objective(self, spec: PluginSpec) -> Objective | None:
        """The objective, or None if it cannot be made."""
        key = f"{spec.name} {spec.params}"
        if key not in self._objectives:
            self._objectives[key] = None
            try:
                self._objectives[key] = create("objective", spec.name, spec.params)
            except HarnessError as error:
                self.broken[key] = str(error)
            except Exception:
                log.debug("left to the cell, which fails alone", exc_info=True)
        return self._objectives[key]

    def schedule(self, objective: PluginSpec, budget: int, *, compiled: bool) -> None:
        """Note an objective whose schedule does not suit, or that cannot be compiled."""
        made = self.objective(objective)
        if made is None:
            return
        reason = made.unscheduled(budget)
        if compiled and made.differentiates:
            reason = (
                "it differentiates the student along (x, t), which compiled code cannot; leave out"
                " train.compile"
            )
        if reason:
            self.broken[f"{objective.label} {reason}"] = f"objective {objective.label!r}: {reason}"

    def samplers(
        self, names: Sequence[str], plugins: Mapping[str, PluginSpec], teacher: Teacher
    ) -> None:
        """Note samplers whose levels do not suit a teacher, or its objective's grid."""
        objective = plugins["objective"]
        cls = registry.get("objective", objective.name)
        if reason := _unsampled(cls):
            self.broken[f"objective {objective.name}"] = reason
        for name in names:
            sampler = Sampler.read(name)
            reason = sampler.misfit(teacher.spec.sigma_min, teacher.spec.sigma_max)
            if sampler.times == "trained" and cls.trained_times is Objective.trained_times:
                reason = (
                    f"sampler {name!r}: objective {objective.name!r} ({place(cls)}) trains at"
                    " continuous times and has no grid of its own; use karras times or a list"
                )
            if reason:
                self.broken[f"{name} {reason}"] = f"evaluate.samplers: {reason}"

    def weights(self, objective: PluginSpec, share: int) -> None:
        """Note an objective whose adaptive weight cannot be measured on a process's `share`."""
        group = objective.params.get("adaptive_batch")
        if group and share % group:
            reason = misfit_of_groups(group, share)
            self.broken[f"{objective.label} {reason}"] = f"objective {objective.name!r}: {reason}"

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
                with blaming(*_whose(spec, teacher)):
                    self._data[key] = resolve_dataset(spec, teacher).spec
            except HarnessError as error:
                self._data[key] = self.absent[key] = str(error)
        return self._data[key]


def resolve_dataset(spec: PluginSpec, teacher: Teacher | None) -> Dataset:
    """The dataset of a cell; the name `teacher` stands for the teacher's own."""
    if spec.name == "teacher" and teacher is not None:
        return teacher.dataset()
    made: Dataset = _specified("dataset", spec, DatasetSpec)
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


def _specified(kind: str, plugin: PluginSpec, expected: type[Any]) -> Any:
    """A teacher or a dataset, which says what it is as soon as it is made.

    Raises:
        ConfigError: it does not.
    """
    made = create(kind, plugin.name, plugin.params)
    found = getattr(made, "spec", None)
    if not isinstance(found, expected):
        raise ConfigError(
            f"{kind} {plugin.name!r} ({place(type(made), method='__init__')}): `self.spec` is"
            f" {described(found)}, expected a {expected.__name__}"
        )
    return made


def _whose(spec: PluginSpec, teacher: Teacher | None) -> tuple[str, type[Any]]:
    """Kind and class of the plugin that makes the dataset of a cell."""
    if spec.name == "teacher" and teacher is not None:
        return "teacher", type(teacher)
    return "dataset", registry.get("dataset", spec.name)


def _unsampled(objective: type[Objective]) -> str:
    """Why students of an objective cannot be sampled by default; empty if they can."""
    kinds: object = objective.samplers
    wrong = ""
    if not isinstance(kinds, tuple | list) or not kinds:
        wrong = f" must be a tuple of names, the default first, got {kinds!r}"
    else:
        try:
            Sampler.read(kinds[0])
        except (ValueError, TypeError) as error:
            wrong = f": {error}"
    return wrong and f"objective {objective.name!r} ({place(objective)}): samplers{wrong}"


def is_untried(kind: str, name: str, params: Mapping[str, Any] | None = None) -> bool:
    """Whether a plugin is to be tried before cells start.

    One from outside is, and a shipped one with `params` that differ from its defaults; what is
    shipped is tried by its own tests, preconditionings and extractors with every choice that they
    have.
    """
    return bool(params) or not is_built_in(registry.get(kind, name))


def check_command(spec: RunSpec) -> str:
    """What to type to see how the preconditioning of a cell keeps its contract."""
    words = ["python", "-m", "harness", "check", written(spec.precond)]
    kinds = [("precond", spec.precond)]
    if spec.dataset.name == "teacher":  # else it would be measured on other data
        kinds.append(("teacher", spec.teacher))
        if spec.teacher.label != "gmm":
            words += ["--teacher", written(spec.teacher)]
    files = [plugin_file(registry.get(kind, plugin.name)) for kind, plugin in kinds]
    for file in dict.fromkeys(filter(None, files)):
        words += ["--plugin", file]
    return shlex.join(words)


def written(spec: PluginSpec) -> str:
    """A plugin as the command line takes it: `NAME`, or `NAME: {key: value}`."""
    return f"{spec.name}: {json.dumps(spec.changed)}" if spec.changed else spec.name


def own_sources(spec: RunSpec, request: Request | None = None) -> dict[str, str]:
    """`kind name` -> digest of its file, for plugins of a cell that are not the harness's own.

    With a request, also of the metrics, by their labels, and the extractors that it asks for.
    """
    plugins = plugins_of(spec, request)
    return {called: digest for called, cls in plugins.items() if (digest := own_source(cls))}


def plugins_of(spec: RunSpec, request: Request | None = None) -> dict[str, type[Any]]:
    """`kind name` -> class of every plugin that has a part in a cell, and in a request if given."""
    plugins = {(axis, getattr(spec, axis).name): getattr(spec, axis).name for axis in AXES}
    plugins.pop(("dataset", "teacher"), None)  # the teacher's own data are not a plugin
    if spec.backbone:
        plugins["backbone", spec.backbone["name"]] = spec.backbone["name"]
    if request is not None:
        for label in request.metrics:
            plugins["metric", label] = request.metric_plugin(label)["name"]
        for name in request.extractors:
            plugins["extractor", revised(name, registry.get("extractor", name).revision)] = name
    return {f"{kind} {label}": registry.get(kind, name) for (kind, label), name in plugins.items()}


def sources_of(measure: Measure, sources: Mapping[str, str]) -> dict[str, str]:
    """Those of `own_sources` that have a part in a number."""
    others = (
        f"metric {measure.metric}",
        f"extractor {measure.extractor.partition('#')[0].partition('~')[0]}",
    )
    return {
        plugin: digest
        for plugin, digest in sources.items()
        if plugin in others or not plugin.startswith(("metric ", "extractor "))
    }


def _told(value: Any) -> Any:
    """Plain data as JSON can hold them: numbers that are not finite as text."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
