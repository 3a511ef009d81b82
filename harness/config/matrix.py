"""Expand a grid to cells: all combinations of the axes, and reasons for those skipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.api import DatasetSpec, Teacher
from harness.api.evaluation import misfit
from harness.config.plugins import AXES, GridPlugins
from harness.config.schema import Grid
from harness.config.selection import excluded, filters, labels_match
from harness.core.sampler import Sampler
from harness.errors import ConfigError, nearest
from harness.registry import registry
from harness.store.records import Measure, PluginSpec, Request, RunSpec, revised

#: letters of a run's id: a file system takes 255 in a name
LONGEST_ID = 240


@dataclass(frozen=True)
class Skip:
    """A combination that is not run, and why."""

    cell: str
    reason: str


@dataclass(frozen=True)
class Matrix:
    """The cells of a grid, the combinations skipped, and the request for the cells."""

    grid: Grid
    specs: tuple[RunSpec, ...]
    skips: tuple[Skip, ...]
    request: Request
    #: what whoever runs it should know
    notes: tuple[str, ...] = ()
    _wanted: dict[str, list[Measure]] = field(default_factory=dict, repr=False, compare=False)

    def wanted(self, spec: RunSpec) -> list[Measure]:
        """All measures asked of a cell, in the order of computation."""
        name = spec.objective.name
        if name not in self._wanted:  # which of a cell is all that decides it
            self._wanted[name] = wanted(self.request, spec)
        return self._wanted[name]

    @property
    def extractors(self) -> list[str]:
        """Those that its metrics use; trajectory metrics need none."""
        wanted = (measure for spec in self.specs[:1] for measure in self.wanted(spec))
        used = {measure.extractor_name for measure in wanted}
        return [name for name in self.request.extractors if name in used]

    @property
    def trained(self) -> dict[str, list[str]]:
        """Objective -> the kinds of sampler whose jumps it trains."""
        names = dict.fromkeys(spec.objective.name for spec in self.specs)
        return {name: list(registry.get("objective", name).samplers) for name in names}


def wanted(request: Request, spec: RunSpec) -> list[Measure]:
    """All measures that a request asks of a cell: each step, EMA, sampler, NFE, metric, extractor.

    Without samplers, the default sampler of the cell's objective is used. Metrics without an
    extractor occur once, with `samples` or the name of the ODE solution in its place. Files of
    statistics are used only for metrics that need moments.
    """
    samplers = request.samplers or registry.get("objective", spec.objective.name).samplers[:1]
    drawn = [
        (sampler, nfe)
        for sampler in samplers
        for nfe in request.nfe
        if Sampler.read(sampler).serves(nfe)
    ]
    compared = []
    for metric in request.metrics:
        needs = registry.get("metric", request.metric_plugin(metric)["name"]).needs
        if needs == "trajectory":
            compared.append((metric, f"ode{request.ode_steps}"))
            continue
        rounded = "" if request.rounding == "edm" else "~ctm"
        if needs == "samples":
            compared.append((metric, f"samples{rounded}"))
            continue
        for name in request.extractors:
            file = request.references.get(name) if needs == "moments" else None
            called = revised(name, registry.get("extractor", name).revision) + rounded
            compared.append((metric, f"{called}#{file['digest']}" if file else called))
    return [
        Measure(
            *(step, nfe, metric, extractor, request.samples),
            sampler=sampler,
            ema=ema,
            seed=request.evaluation_seed,
        )
        for step, ema, (sampler, nfe), (metric, extractor) in itertools.product(
            request.budgets, request.emas, drawn, compared
        )
    ]


def expand(grid: Grid, only: Iterable[str] = (), plugins: Sequence[str] = ()) -> Matrix:
    """Cross the axes.

    Args:
        only: `axis=name` filters; several of one axis are alternatives.
        plugins: files to load with `--plugin`, handed on to the workers.

    Raises:
        ConfigError: unknown plugins or parameters, an unreadable teacher, nothing left to run.
    """
    if reason := _misfit(grid, images=True):
        raise ConfigError(f"evaluate: {reason}")
    specs: dict[str, RunSpec] = {}
    skips: list[Skip] = []
    make = GridPlugins()
    keep = filters(grid, make, only)
    references = make.references(grid.evaluate.references)
    metrics = [make.spec("metric", ref) for ref in grid.evaluate.metrics]
    for refs in itertools.product(*(getattr(grid.axes, axis) for axis in AXES)):
        found = {axis: make.spec(axis, ref) for axis, ref in zip(AXES, refs, strict=True)}
        plugins_here = {axis: spec for axis, spec in found.items() if spec is not None}
        if len(plugins_here) < len(AXES):  # told at the end, with whatever else is wrong
            make.dataset(found["dataset"], make.teacher(found["teacher"]))
            continue
        for seed in grid.axes.seed:
            if not all(
                labels_match(plugins_here, seed, axis, names) for axis, names in keep.items()
            ):
                continue
            cell = _cell(grid, make, plugins_here, seed)
            if isinstance(cell, RunSpec) and cell.run_id in specs:
                cell = Skip(_name(plugins_here, seed), "the same cell is listed twice")
            if isinstance(cell, Skip):
                skips.append(cell)
            else:
                specs[cell.run_id] = cell
    if make.broken or not specs:
        raise _nothing_to_run(grid, make, skips)
    names, notes = [ref.name for ref in grid.axes.precond], _notes(specs.values())
    if grid.report.baseline not in names:
        if "baseline" in grid.report.model_fields_set:
            raise ConfigError(
                f"report.baseline: {grid.report.baseline!r} is not on axes.precond"
                f"{nearest(grid.report.baseline, names)}"
            )
        report = grid.report.model_copy(update={"baseline": names[0]})
        grid = grid.model_copy(update={"report": report})
        notes.append(
            f"report.baseline: {names[0]!r}, the first on axes.precond: 'ctm' is not on it and the"
            " grid names no other"
        )
    request = _request(grid, [spec for spec in metrics if spec], references, plugins)
    return Matrix(grid, tuple(specs.values()), tuple(skips), request, tuple(notes))


def _notes(specs: Iterable[RunSpec]) -> list[str]:
    """Notes on students of network teachers that are not initialised as their teacher."""
    others = {
        (spec.teacher.label, spec.backbone["name"], spec.train["init"]): None
        for spec in specs
        if spec.backbone and registry.get("teacher", spec.teacher.name).is_network
    }
    return [
        f"student.backbone: students of {teacher} are a {name}, "
        + ("fitted to its denoiser" if init == "teacher" else "with random weights")
        + ", not its own network: at step 0 they are not the teacher"
        for teacher, name, init in others
    ]


def shard(matrix: Matrix, which: str | None) -> Matrix:
    """Every N-th cell from the I-th on, for `I/N`; all of them without.

    Raises:
        ConfigError: not of that form, or I is not among 1..N.
    """
    if which is None:
        return matrix
    first, slash, count = which.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise ConfigError(f"--shard {which}: write I/N with 1 <= I <= N, e.g. --shard 1/4")
    return replace(matrix, specs=matrix.specs[int(first) - 1 :: int(count)])


def _cell(
    grid: Grid, make: GridPlugins, plugins: Mapping[str, PluginSpec], seed: int
) -> RunSpec | Skip:
    """One combination of plugins and a seed: what is to be run, or why not."""
    name = _name(plugins, seed)
    rule = next((r for r in grid.exclude if excluded(r, plugins, seed)), None)
    if rule is not None:
        return Skip(name, f"excluded by {rule}")
    teacher = make.teacher(plugins["teacher"])
    data = make.dataset(plugins["dataset"], teacher)
    if teacher is None or isinstance(data, str):
        return Skip(name, data if isinstance(data, str) else "it has no teacher")
    if reason := _mismatch(teacher, data) or _misfit(grid, len(teacher.spec.shape) == 3):
        return Skip(name, reason)
    if reason := make.suited(plugins["objective"], plugins["precond"], teacher):
        return Skip(name, reason)
    make.schedule(plugins["objective"], max(grid.budgets), compiled=grid.train.compile)
    make.samplers(grid.evaluate.samplers, plugins, teacher)
    make.weights(plugins["objective"], grid.train.batch // grid.launch.processes)
    backbone, student = _network(grid, teacher), grid.student.identity()
    spec = RunSpec(
        **plugins,
        seed=seed,
        train=grid.train.identity(),
        backbone=backbone,
        digests={"teacher": teacher.spec.digest, "dataset": data.digest},
        student=student,
    )
    if len(spec.run_id) > LONGEST_ID:
        raise ConfigError(
            f"run {spec.run_id[:60]}...: its name would be {len(spec.run_id)} letters long, more"
            f" than {LONGEST_ID}; give its plugins shorter names"
        )
    return spec


def _network(grid: Grid, teacher: Teacher) -> dict[str, Any] | None:
    """The student's backbone with all its settings; None where it is the teacher's own network.

    Raises:
        ConfigError: it does not fit the samples, or has no such choice as `student` makes.
    """
    chosen = grid.student.backbone or (None if type(teacher).is_network else grid.backbone)
    backbone = None if chosen is None else chosen.identity(teacher.spec.shape)
    if backbone is None:
        what, adapts = f"teacher {teacher.name!r}'s network", type(teacher).is_unet
    else:
        what = f"backbone {backbone['name']!r}"
        adapts = registry.get("backbone", backbone["name"]).adapts
    for key in () if adapts else grid.student.identity():
        raise ConfigError(
            f"student.{key}: {what} has no such choice, only U-Nets of harness/backbones have;"
            " leave it out"
        )
    return backbone


def _name(plugins: Mapping[str, PluginSpec], seed: int) -> str:
    return " x ".join([*(spec.label for spec in plugins.values()), str(seed)])


def _nothing_to_run(grid: Grid, make: GridPlugins, skips: Sequence[Skip]) -> ConfigError:
    """One sentence if one thing is wrong, else all of them, one a line."""
    wrong = list(dict.fromkeys([*make.broken.values(), *make.absent.values()]))
    if not make.broken and not make.absent:
        why = f"; first reason: {skips[0].reason}" if skips else ""
        return ConfigError(f"grid {grid.name!r} has no cell to run{why}")
    if len(wrong) == 1 and make.broken:
        return ConfigError(wrong[0])
    if len(wrong) == 1:
        return ConfigError(f"grid {grid.name!r} has no cell to run; {wrong[0]}")
    lines = "".join(f"\n  {reason}" for reason in wrong)
    return ConfigError(f"grid {grid.name!r} cannot run, {len(wrong)} things are missing:{lines}")


def _request(
    grid: Grid,
    metrics: Sequence[PluginSpec],
    references: dict[str, dict[str, Any]],
    plugins: Sequence[str],
) -> Request:
    rates = (None if rate == grid.train.ema else rate for rate in grid.train.eval_ema)
    return Request(
        budgets=list(grid.budgets),
        nfe=list(dict.fromkeys(grid.evaluate.nfe)),
        samplers=list(grid.evaluate.samplers),
        emas=list(dict.fromkeys(rates)) or [None],
        **named_metrics(metrics),
        extractors=list(dict.fromkeys(grid.evaluate.extractors)),
        samples=grid.evaluate.samples,
        evaluation_seed=grid.evaluate.seed,
        rounding=grid.evaluate.rounding,
        ode_steps=grid.evaluate.ode_steps,
        evaluation_batch=grid.evaluate.batch,
        device=grid.launch.device,
        micro_batch=grid.train.micro_batch,
        checkpoint_every=grid.train.checkpoint_every,
        log_every=grid.train.log_every,
        compile=grid.train.compile,
        channels_last=grid.train.channels_last,
        processes=grid.launch.processes,
        track=list(grid.launch.track),
        plugins=[str(Path(plugin).expanduser().resolve()) for plugin in plugins],
        references=references,
    )


def named_metrics(specs: Iterable[PluginSpec]) -> dict[str, Any]:
    """`metrics` and `metric_plugins` of a request.

    Rows call a metric by name, revision where it is not the first, and changed parameters.
    """
    found = {}
    for spec in specs:
        called = revised(spec.name, spec.revision)
        found[spec.label.replace(spec.name, called, 1)] = spec
    plugins = {
        label: {"name": spec.name, "params": spec.changed}
        for label, spec in found.items()
        if label != spec.name
    }
    return {"metrics": list(found), "metric_plugins": plugins}


def _mismatch(teacher: Teacher, data: DatasetSpec) -> str:
    """Why a teacher cannot be distilled on a dataset; empty if it can."""
    if teacher.spec.shape != data.shape:
        return f"the teacher's samples are {teacher.spec.shape}, the data are {data.shape}"
    if teacher.spec.classes and teacher.spec.classes != data.classes:
        return f"the teacher has {teacher.spec.classes} classes, the data have {data.classes}"
    return ""


def _misfit(grid: Grid, images: bool) -> str:
    """Why samples cannot be evaluated as the grid asks; empty if they can.

    Raises:
        ConfigError: no metric or extractor has such a name.
    """
    if grid.evaluate.rounding != "edm" and not images:
        return "samples that are no images are not rounded: leave out evaluate.rounding"
    metrics = [registry.get("metric", ref.name) for ref in grid.evaluate.metrics]
    extractors = [registry.get("extractor", name) for name in grid.evaluate.extractors]
    reasons = (misfit(*pair, images) for pair in itertools.product(metrics, extractors))
    return next(filter(None, reasons), "")
