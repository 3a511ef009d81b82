"""Types of the records on disk: identity and state of a run, request, one evaluation."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from functools import cache, cached_property
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from harness.digest import content_digest
from harness.visible import visible

#: rounding of samples to uint8: as in EDM, or as in consistency models and CTM
Rounding = Literal["edm", "ctm"]

#: what follows the name of a grid run with --quick, and that of its results folder
QUICK = "-quick"
#: stands for the objective of students that were trained elsewhere (`eval --student`)
PUBLISHED = "published"


class State(StrEnum):
    """The states of a cell; all but queued, running and done have a reason."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class PluginSpec:
    """A plugin with all its parameters; `changed` are those that differ from their defaults.

    `located` lists parameters that are paths. They are not part of the identity, since the content
    of the file is identified by its digest: moving a file does not start a new run.
    """

    name: str
    revision: int
    params: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    located: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Label in tables: `analytic`, or `analytic(statistics=jvp)`."""
        if not self.changed:
            return visible(self.name)
        short = {
            key: PurePath(str(value)).stem if key in self.located else _short(value)
            for key, value in sorted(self.changed.items())
        }
        told = ", ".join(f"{key}={value}" for key, value in short.items())
        return visible(f"{self.name}({told})")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, revision and parameters that differ from defaults, without paths of files.

        Defaults are left out so that a new parameter does not change the identity of old runs; if a
        default changes, `revision` must be raised.
        """
        params = {key: value for key, value in self.changed.items() if key not in self.located}
        return {"name": self.name, "revision": self.revision, "params": params}


@dataclass(frozen=True)
class RunSpec:
    """The identity of a cell: everything that determines its numbers, and nothing else.

    Budgets, NFEs, metrics, number of processes and names are not part of it, so that adding one
    extends a finished run instead of starting another.
    """

    precond: PluginSpec
    teacher: PluginSpec
    objective: PluginSpec
    dataset: PluginSpec
    seed: int
    train: dict[str, Any]
    backbone: dict[str, Any] | None
    digests: dict[str, str]
    #: the grid's `student` section less its defaults
    student: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def run_id(self) -> str:
        """A readable name ending in a hash of the identity."""
        identity = {each.name: getattr(self, each.name) for each in fields(self)}
        for axis in ("precond", "teacher", "objective", "dataset"):
            identity[axis] = identity[axis].identity
        if not self.student:
            del identity["student"]
        digest = content_digest(identity, length=10)
        head = f"{self.precond.name}-{self.teacher.name}-{self.objective.name}-s{self.seed}"
        return re.sub(r"[^a-zA-Z0-9-]", "_", head) + f"-{digest}"

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the run id added for readers of the file."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        for axis in ("precond", "teacher", "objective", "dataset"):
            told[axis] = dict(vars(told[axis]))
        if not self.student:  # files from before there was one have none
            del told["student"]
        return {"run_id": self.run_id, **told}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunSpec:
        """Inverse of `to_json`."""
        return cls(
            precond=PluginSpec(**data["precond"]),
            teacher=PluginSpec(**data["teacher"]),
            objective=PluginSpec(**data["objective"]),
            dataset=PluginSpec(**data["dataset"]),
            **{key: data[key] for key in ("seed", "train", "backbone", "digests")},
            student=data.get("student", {}),
        )


#: keys of spec.json, without which it is none
SPEC = tuple(
    each.name
    for each in fields(RunSpec)
    if each.default is MISSING and each.default_factory is MISSING
)


@dataclass(frozen=True)
class Measure:
    """The key of one measurement: training step, sampling, metric, and number of samples.

    - `metric`: label of a metric, e.g. `kid(subset_size=500)`;
    - `extractor`: name of an extractor, followed by `.r2` for revision 2, by `~ctm` for images
      rounded that way, and by `#` and a digest if the reference is a file of statistics instead of
      the dataset; or `ode256` for a trajectory metric;
    - `sampler`: see harness/core/sampler.py; `ema`: rate of the average of the weights, None for
      the objective's own (`train.ema`); `seed`: of the evaluation.

    Defaults are the values that older rows without the field have.
    """

    step: int
    nfe: int
    metric: str
    extractor: str
    n: int
    sampler: str = "exact"
    ema: float | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data; fields that have their default are left out."""
        return {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }

    @property
    def extractor_name(self) -> str:
        """Name of the extractor, without revision, rounding and reference."""
        return re.sub(r"\.r\d+$", "", self.extractor.partition("#")[0].partition("~")[0])

    @property
    def rounding(self) -> Rounding:
        """Rounding of samples to uint8 images."""
        return cast(Rounding, self.extractor.partition("#")[0].partition("~")[2] or "edm")

    @property
    def reference(self) -> str:
        """Digest of the file of statistics that is the reference; empty for the dataset."""
        return self.extractor.partition("#")[2]


def revised(name: str, revision: int) -> str:
    """Name of a metric or extractor in rows, with `.r2` appended for revision 2."""
    return name if revision == 1 else f"{name}.r{revision}"


def sampling_name(measure: Measure) -> str:
    """Stem of files with samples: `step-00001000-nfe2`, followed by fields that are not default.

    For example `step-00001000-nfe2-stochastic-ema0.9999-seed1`.
    """
    default = {each.name: each.default for each in fields(Measure)}
    more = [
        f"-{head}{getattr(measure, name)}"
        for name, head in (("sampler", ""), ("ema", "ema"), ("seed", "seed"))
        if getattr(measure, name) != default[name]
    ]
    return f"step-{measure.step:08d}-nfe{measure.nfe}{''.join(more)}"


@dataclass(frozen=True)
class EvalRow:
    """One measurement, a line of eval.jsonl. `seconds` is the training time up to that step.

    `std` is the standard deviation of the estimate, for metrics that have one; `extractor_id` names
    weights, preprocessing, and the reference if it is a file, so that tables never mix protocols.
    """

    step: int
    images: int
    seconds: float
    nfe: int
    metric: str
    extractor: str
    n: int
    reference_n: int
    value: float
    lower_is_better: bool = True
    std: float | None = None
    extractor_id: str | None = None
    sampler: str = "exact"
    ema: float | None = None
    seed: int = 0
    #: `kind name` -> digest of the file, for plugins involved that are not built in
    plugins: dict[str, str] | None = None

    @cached_property
    def measure(self) -> Measure:
        """The key of this row: a later row with the same key replaces it."""
        return _measure(*_MEASURE_OF(self))

    def to_json(self) -> dict[str, Any]:
        """As plain data; without `plugins` if all are built in."""
        record = asdict(self)
        if not self.plugins:
            del record["plugins"]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EvalRow:
        """From a line of eval.jsonl, of this version or an earlier one.

        Raises:
            ValueError: a field is unknown (of a newer version), has another type, or is missing.
        """
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        fault, wrong = _fault(tuple(record), tuple(map(type, record.values())))
        if fault:
            raise ValueError(fault)
        wrong = wrong or tuple(x for x in FINITE if not math.isfinite(record.get(x) or 0.0))
        if wrong:
            raise ValueError(f"{wrong[0]} is {str(record[wrong[0]])[:60]!r}")
        row = object.__new__(cls)  # __init__ takes longer than all else, of 400,000 rows
        row.__dict__.update(_ROW_DEFAULTS, **record)
        return row


def _json_types(kind: Any) -> set[type]:
    """Types that JSON may have for an annotation such as `float | None`; int is valid for float."""
    kinds = {get_origin(each) or each for each in get_args(kind) or (kind,)}
    return kinds | {int} if float in kinds else kinds


#: fields of a row that are finite; `value` may be infinite or nan
FINITE = ("seconds", "std", "ema")


@cache
def _fault(names: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[str, tuple[str, ...]]:
    """What is wrong with the names of a row's fields, and fields that are not of their type.

    Cached, since all rows of a version are alike.
    """
    if unknown := sorted(set(names) - _ROW_FIELDS):
        return f"unknown field {unknown[0]!r}: a newer precondbench wrote it", ()
    if lacking := sorted(_ROW_NEEDS - set(names)):
        return f"field {lacking[0]!r} is missing", ()
    typed = zip(names, kinds, strict=True)
    return "", tuple(name for name, kind in typed if kind not in _ROW_TYPES[name])


_measure = cache(Measure)  # equal keys are one object, which is found faster in sets
_MEASURE_OF = attrgetter(*(each.name for each in fields(Measure)))
_ROW_FIELDS = {each.name for each in fields(EvalRow)}
_ROW_TYPES = {name: _json_types(kind) for name, kind in get_type_hints(EvalRow).items()}
_ROW_DEFAULTS = {each.name: each.default for each in fields(EvalRow)}
_ROW_NEEDS = {each.name for each in fields(EvalRow) if each.default is MISSING}


@dataclass(frozen=True)
class Request:
    """Budgets and evaluations that are asked of a run; not part of its identity."""

    budgets: list[int]
    nfe: list[int]
    metrics: list[str]
    extractors: list[str]
    samples: int
    #: names of samplers; none: the objective's own
    samplers: list[str] = field(default_factory=list)
    #: rates of the averages to evaluate; None is the objective's own, which is always kept
    emas: list[float | None] = field(default_factory=lambda: [None])
    evaluation_seed: int = 0
    rounding: Rounding = "edm"
    ode_steps: int = 256
    evaluation_batch: int | None = None
    device: str = "auto"
    micro_batch: int | None = None
    checkpoint_every: int = 1000
    log_every: int = 100
    compile: bool = False
    channels_last: bool = False
    processes: int = 1
    track: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    #: label of a metric -> {name, params}, where it is more than a name
    metric_plugins: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: extractor -> {file, n, digest}
    references: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def averages(self) -> list[float]:
        """Rates of the averages that training keeps in addition to the objective's own."""
        return [rate for rate in self.emas if rate is not None]

    def metric_plugin(self, label: str) -> dict[str, Any]:
        """Name and parameters of the metric with this label."""
        return self.metric_plugins.get(label, {"name": label, "params": {}})

    @property
    def switches(self) -> dict[str, bool]:
        """`compile` and `channels_last`, which change rounding only (train/torch_settings.py)."""
        return {"compile": self.compile, "channels_last": self.channels_last}


def _short(value: Any) -> str:
    """A parameter's value in a label; a plugin among parameters as `name(key=value)`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    if not isinstance(value, dict):
        return str(value)
    params = value.get("params", {}) if "name" in value else value
    told = ", ".join(f"{key}={_short(each)}" for key, each in params.items())
    return f"{value['name']}({told})" if "name" in value and told else value.get("name", told)
