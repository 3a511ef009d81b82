"""What is written to disk, as types: a run's identity, its status, one evaluation."""

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

#: how samples become uint8 images: as EDM does it, or as consistency models and CTM do
Rounding = Literal["edm", "ctm"]

#: what follows the name of a grid run with --quick, and that of its results folder
QUICK = "-quick"
#: stands for the objective of students that were trained elsewhere (`eval --student`)
PUBLISHED = "published"


class State(StrEnum):
    """All states a cell can be in; all but queued, running and done come with a reason."""

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
    """A plugin with all its parameters, defaults filled in; `changed` are those that are not.

    `located` names parameters that say where something is (a path): what is there is known by its
    digest, so they are no part of an identity, and a moved file does not start a new run.
    """

    name: str
    revision: int
    params: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    located: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """How tables call it: `analytic`, or `analytic(statistics=jvp)`."""
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
        """What decides numbers: name, revision and what is not default, less the places of files.

        Defaults are left out so that a plugin may gain a parameter without orphaning old runs; a
        default that changes is another `revision`.
        """
        params = {key: value for key, value in self.changed.items() if key not in self.located}
        return {"name": self.name, "revision": self.revision, "params": params}


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a cell's numbers, and nothing else.

    Budgets, NFEs, metrics, process count and names are absent on purpose: adding one extends a
    finished run instead of starting another.
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
        """Plain data, with the run id for whoever reads the file."""
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
    """What one number is: at which step, sampled how, measured how, on how many samples.

    `metric` is the label of a metric, e.g. `kid(subset_size=500)`. `extractor` is the name of an
    extractor, with `.r2` where its revision is 2, with `~ctm` where images are rounded so, and with
    `#` and the digest of a file of statistics where samples are compared with that instead of the
    dataset; or `ode256` for a trajectory metric. `sampler` is a name of harness/core/sampler.py,
    `ema` the rate of the average that was sampled from, None for the objective's own (`train.ema`),
    `seed` the evaluation's. Their defaults are what older rows mean.
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
        """As plain data; what is as it was before there was a choice is left out."""
        return {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }

    @property
    def extractor_name(self) -> str:
        """The extractor alone."""
        return re.sub(r"\.r\d+$", "", self.extractor.partition("#")[0].partition("~")[0])

    @property
    def rounding(self) -> Rounding:
        """How images were made for the extractor."""
        return cast(Rounding, self.extractor.partition("#")[0].partition("~")[2] or "edm")

    @property
    def reference(self) -> str:
        """Digest of the file of statistics that is compared with; empty for the dataset."""
        return self.extractor.partition("#")[2]


def revised(name: str, revision: int) -> str:
    """What rows call a metric or an extractor: its name, with `.r2` where its revision is 2."""
    return name if revision == 1 else f"{name}.r{revision}"


def sampling_name(measure: Measure) -> str:
    """What files with samples of one step and sampling are called, without their ending.

    `step-00001000-nfe2`, and after it whatever is not the default: `-stochastic-ema0.9999-seed1`.
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
    """One evaluation, one line of eval.jsonl. `seconds` is the train-only clock at that step.

    `std` is the standard deviation of the estimate, for metrics that have one; `extractor_id` names
    weights, preprocessing and the reference where it is a file, so that tables never mix two
    protocols under one name.
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
    #: digest of the file of every plugin from outside that had a part in it, by `kind name`
    plugins: dict[str, str] | None = None

    @cached_property
    def measure(self) -> Measure:
        """The key of this row: a later row with the same key replaces it."""
        return Measure(*_MEASURE_OF(self))

    def to_json(self) -> dict[str, Any]:
        """As plain data; without `plugins` where all are the harness's own."""
        record = asdict(self)
        if not self.plugins:
            del record["plugins"]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EvalRow:
        """A line of eval.jsonl, of this version or an earlier one.

        Raises:
            ValueError: a field is unknown (a newer version wrote it), of another type, or a needed
                one is absent.
        """
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        finite = _finite_fields(tuple(record), tuple(map(type, record.values())))
        if finite is not None and all(math.isfinite(record[name]) for name in finite):
            row = object.__new__(cls)  # __init__ takes longer than all else, of 400,000 rows
            row.__dict__.update(_ROW_DEFAULTS, **record)
            return row
        if unknown := sorted(record.keys() - _ROW_FIELDS):
            raise ValueError(f"unknown field {unknown[0]!r}: a newer precondbench wrote it")
        if lacking := sorted(_ROW_NEEDS - record.keys()):
            raise ValueError(f"field {lacking[0]!r} is missing")
        for name, value in record.items():
            kind = type(value)
            wrong = kind is float and name != "value" and not math.isfinite(value)
            if wrong or kind not in _ROW_TYPES[name]:
                raise ValueError(f"{name} is {str(value)[:60]!r}")
        return cls(**record)


def _json_types(kind: Any) -> set[type]:
    """The types that JSON may hold for one such as `float | None`: whole numbers are int there."""
    kinds = {get_origin(each) or each for each in get_args(kind) or (kind,)}
    return kinds | {int} if float in kinds else kinds


@cache
def _finite_fields(names: tuple[str, ...], kinds: tuple[type, ...]) -> list[str] | None:
    """Fields of a row, of these names and types, that have to be finite; None if it is no row."""
    if not _ROW_NEEDS <= set(names) <= _ROW_FIELDS:
        return None
    told = dict(zip(names, kinds, strict=True))
    if any(kind not in _ROW_TYPES[name] for name, kind in told.items()):
        return None
    return [name for name, kind in told.items() if kind is float and name != "value"]


_MEASURE_OF = attrgetter(*(each.name for each in fields(Measure)))
_ROW_FIELDS = {each.name for each in fields(EvalRow)}
_ROW_TYPES = {name: _json_types(kind) for name, kind in get_type_hints(EvalRow).items()}
_ROW_DEFAULTS = {each.name: each.default for each in fields(EvalRow)}
_ROW_NEEDS = {each.name for each in fields(EvalRow) if each.default is MISSING}


@dataclass(frozen=True)
class Request:
    """What a run is asked for: budgets and evaluations. Not part of its identity."""

    budgets: list[int]
    nfe: list[int]
    metrics: list[str]
    extractors: list[str]
    samples: int
    #: names of samplers; none: the objective's own
    samplers: list[str] = field(default_factory=list)
    #: averages to evaluate: None is the objective's own, which is always kept
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
        """Rates of the averages that training keeps beside the objective's own."""
        return [rate for rate in self.emas if rate is not None]

    def metric_plugin(self, label: str) -> dict[str, Any]:
        """Name and parameters of the metric that rows call so."""
        return self.metric_plugins.get(label, {"name": label, "params": {}})

    @property
    def switches(self) -> dict[str, bool]:
        """How the networks are computed, which changes rounding alone (harness/train/tuning.py)."""
        return {"compile": self.compile, "channels_last": self.channels_last}


def _short(value: Any) -> str:
    """A parameter's value as a label has it; a plugin among parameters as `name(key=value)`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    if not isinstance(value, dict):
        return str(value)
    params = value.get("params", {}) if "name" in value else value
    told = ", ".join(f"{key}={_short(each)}" for key, each in params.items())
    return f"{value['name']}({told})" if "name" in value and told else value.get("name", told)
