"""grid.yaml, as types. Unknown keys are errors; every default is written here."""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_serializer, model_validator

from harness.api import plugin as api
from harness.api.plugin import spelled_out
from harness.config.reading import parse
from harness.config.samplers import sampler_names
from harness.config.sections import Backbone, Section, Student, Train
from harness.core.sampler import Sampler
from harness.store.records import Rounding


def written_out(value: Any) -> Any:
    """`NAME: {key: value}` as {name, params}, whether a mapping or text; all else as it is.

    Raises:
        ValueError: the text is no name, and no mapping of that form.
    """
    if not isinstance(value, str):
        return spelled_out(value)
    try:
        read = parse(value)
    except yaml.YAMLError:
        read = {}
    if not isinstance(read, dict | list | None):
        return value
    long = spelled_out(read)
    if isinstance(long, dict) and "name" in long:
        return long
    raise ValueError(f"{value!r}: write NAME or 'NAME: {{key: value}}'")


class PluginRef(api.PluginRef):
    """A plugin on an axis; in text too, as a command line has it: 'NAME: {key: value}'."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return written_out(value)


class MetricRef(PluginRef):
    """A metric, written down as short as it may be read."""

    @model_serializer
    def _short(self) -> Any:
        return {self.name: self.params} if self.params else self.name


Axis = Annotated[list[PluginRef], Field(min_length=1)]


class Axes(Section):
    """What is crossed with what. `dataset: [teacher]` is the data the teacher itself models."""

    precond: Axis
    teacher: Axis
    objective: Axis = Field(default_factory=lambda: [PluginRef(name="ctm")])
    dataset: Axis = Field(default_factory=lambda: [PluginRef(name="teacher")])
    seed: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0]
    )


class ReferenceFile(Section):
    """Published statistics to compare with: mu and sigma of `n` images, or a file of `fid --save`.

    Files of EDM, ADM and clean-fid do not say of how many images they are; `n` does.
    """

    file: str
    n: int | None = Field(default=None, ge=2)


class Evaluate(Section):
    """What is measured at each budget: every NFE, sampler and metric, on `samples` samples.

    `samplers` are names (harness/core/sampler.py); without any, each cell is sampled as its
    objective trains it to be: `ctm` exact, `cd` stochastic.
    Generated samples are compared with the dataset of the cell; for Fréchet distances on an
    extractor named in `references`, with the statistics in that file.
    """

    nfe: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 2, 3, 5, 10]
    samples: int = Field(default=10_000, ge=2)
    samplers: list[str] = Field(
        default_factory=list,
        description="e.g. [exact, exact@trained, {stochastic: {times: {2: [80, 1.382]}}}]",
    )
    metrics: Annotated[list[MetricRef], Field(min_length=1)] = [
        MetricRef(name="frechet"),
        MetricRef(name="alignment"),
    ]
    extractors: Annotated[list[str], Field(min_length=1)] = ["raw"]
    references: dict[str, ReferenceFile] = Field(default_factory=dict)
    seed: int = 0
    rounding: Rounding = Field(
        default="edm", description="of images to uint8, as EDM's code does it or CTM's"
    )
    ode_steps: int = Field(
        default=256, ge=16, description="Heun steps of the teacher's own solution"
    )
    batch: int | None = Field(
        default=None, ge=1, description="samples at a time; default: 256 images or 1024 vectors"
    )

    @field_validator("samplers", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return list(dict.fromkeys(name for entry in value for name in sampler_names(entry)))

    @model_validator(mode="after")
    def _listed_steps(self) -> Evaluate:
        for name in self.samplers:
            if not any(Sampler.read(name).serves(nfe) for nfe in self.nfe):
                raise ValueError(
                    f"samplers: {name!r} is for {name.count(',') + 1} steps, which evaluate.nfe"
                    f" ({', '.join(map(str, self.nfe))}) does not ask for"
                )
        return self

    @model_validator(mode="after")
    def _references_of_extractors(self) -> Evaluate:
        for name in self.references:
            if name not in self.extractors:
                raise ValueError(
                    f"references.{name}: there is no such extractor in evaluate.extractors"
                    f" ({', '.join(self.extractors)})"
                )
        return self


Tracker = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]


class Slurm(Section):
    """What the job of a cell asks Slurm for; see docs/cluster.md.

    `minutes` is the time limit of one start of a job: `launch.grace` before it the cell saves and
    is put back into the queue, at most `requeues` times. Preemptions do not count.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int | None = Field(
        default=None, ge=0, description="per node; default: one a process with device: cuda"
    )
    gres: str | None = None
    cpus: int = Field(default=1, ge=1, description="per process")
    mem_gb: float | None = Field(default=None, gt=0, description="per node")
    minutes: int = Field(default=240, ge=1)
    parallel: int | None = Field(default=None, ge=1, description="cells at a time; default: all")
    requeues: int = Field(default=50, ge=0)
    setup: list[str] = Field(
        default_factory=list, description="shell lines before a job, e.g. `module load cuda`"
    )
    extra: dict[str, str | int | Literal[True]] = Field(
        default_factory=dict, description="other options of sbatch, e.g. {constraint: a100}"
    )


class Launch(Section):
    """Where cells run: `slots` at a time, each in `processes` processes; times are in minutes.

    `timeout` ends a cell (a checkpoint is written; the next `run` continues it), `stall` ends one
    that shows no sign of life, `retries` is for those, for processes that died and for errors of
    the device: an error that a plugin raises, it would raise again. `grace` is the time a cell gets
    to save before it is killed.
    """

    launcher: Literal["local", "slurm"] = "local"
    slurm: Slurm = Field(default_factory=Slurm)
    processes: int = Field(default=1, ge=1, description="of a cell, over all its nodes")
    nodes: int = Field(default=1, ge=1)
    slots: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1, description="CPU threads per process")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout: float | None = Field(default=None, gt=0)
    stall: float | None = Field(default=60.0, gt=0)
    grace: float = Field(default=5.0, ge=0)
    retries: int = Field(default=1, ge=0)
    environment: dict[str, str] = Field(default_factory=dict)
    accelerate_config: str | None = Field(
        default=None, description="a file for `accelerate launch`, which then starts the processes"
    )
    track: list[Tracker] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole_nodes(self) -> Launch:
        if self.processes % self.nodes:
            raise ValueError(
                f"processes: {self.processes} cannot be shared by {self.nodes} nodes; use a"
                f" multiple of {self.nodes}"
            )
        if self.nodes > 1 and self.launcher == "local":
            raise ValueError("nodes: this machine is one; cells that span several need slurm")
        if self.launcher == "slurm" and self.grace >= self.slurm.minutes:
            raise ValueError(
                f"slurm.minutes: {self.slurm.minutes} leave no time before the {self.grace:g}"
                " minutes that a cell has to save (grace)"
            )
        return self


class Report(Section):
    """How cells are compared: with which preconditioning, and at which further quality targets."""

    baseline: str = "ctm"
    targets: dict[str, list[float]] = Field(
        default_factory=dict, description="metric -> absolute values to reach"
    )


class NeededFile(Section):
    """A file that a grid cannot bring along: what it is, and how one gets it.

    `size` in bytes, if it is known; `sha256` or its beginning, which `run` then checks; `command`
    makes or fetches it.
    """

    file: str = Field(min_length=1)
    size: float | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    command: str | None = None

    def told(self) -> str:
        """All of it in one sentence."""
        text = self.file
        if self.size:
            text += f", about {human_size(self.size)}"
        text += f", sha256 {self.sha256}" + "..." * (len(self.sha256) < 64) if self.sha256 else ""
        return text + (f"; get it with `{self.command}`" if self.command else "")


def human_size(size: float) -> str:
    """Bytes in the unit that people would say."""
    power = min(3, max(1, int(math.log10(max(size, 1)) // 3)))
    return f"{size / 1000**power:.3g} {' kMG'[power]}B"


class Grid(Section):
    """A whole grid.yaml."""

    version: Literal[1]
    name: str
    axes: Axes
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    train: Train = Field(default_factory=Train)
    student: Student = Field(default_factory=Student)
    backbone: Backbone = Field(default_factory=Backbone)
    budgets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    evaluate: Evaluate = Field(default_factory=Evaluate)
    launch: Launch = Field(default_factory=Launch)
    report: Report = Field(default_factory=Report)
    results: str = "results"
    needs: dict[str, str | NeededFile] = Field(
        default_factory=dict, description="environment variable -> what file to get for it"
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                "must be letters, digits, dots, dashes and underscores, and begin with a letter or"
                f" digit (a folder of tables is called so), got {name!r}"
            )
        return name

    @field_validator("budgets")
    @classmethod
    def _increasing(cls, budgets: list[int]) -> list[int]:
        if any(b <= a for a, b in itertools.pairwise(budgets)):
            raise ValueError(f"must increase (they are training steps), got {budgets}")
        return budgets

    @model_validator(mode="after")
    def _within_the_schedule(self) -> Grid:
        end = self.train.lr_zero_at
        if end is not None and self.budgets[-1] > end:
            raise ValueError(
                f"budgets: train.lr_zero_at: {end} ends the training there, and they go to"
                f" {self.budgets[-1]}: another length is another experiment"
            )
        return self

    @field_validator("exclude")
    @classmethod
    def _known_axes(cls, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for rule in rules:
            unknown = set(rule) - set(Axes.model_fields)
            if unknown or not rule:
                raise ValueError(f"a rule names axes ({', '.join(Axes.model_fields)}), got {rule}")
        return [{axis: spelled_out(value) for axis, value in rule.items()} for rule in rules]

    @model_validator(mode="after")
    def _divisible(self) -> Grid:
        processes, batch = self.launch.processes, self.train.batch
        micro = self.train.micro_batch or batch // processes
        if batch % processes:
            raise ValueError(
                f"train.batch: {batch} samples cannot be shared by launch.processes ="
                f" {processes}; use a multiple of {processes}"
            )
        if micro == 0 or (batch // processes) % micro:
            raise ValueError(
                f"train.micro_batch: {micro} does not divide the {batch // processes} samples"
                " that each process gets"
            )
        return self
