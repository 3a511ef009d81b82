"""Preparation of a grid: find unfinished cells, and check that all they need is available."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.matrix import Matrix
from harness.config.needs import (
    missing_trackers,
    missing_weights,
    told_at_once,
    unready_objectives,
    wrong_files,
)
from harness.config.plugins import is_untried, own_sources
from harness.core.sampler import Sampler
from harness.errors import ArtifactError, ConfigError, DamagedError, HarnessError
from harness.registry import registry
from harness.store.lease import taken
from harness.store.records import Measure, RunSpec, State
from harness.store.run import Run, without_average
from harness.store.store import ResultStore
from harness.store.tables import save_matrix


def owed_cells(store: ResultStore, matrix: Matrix) -> list[RunSpec]:
    """The cells of a grid that lack measurements."""
    return [s for s in matrix.specs if _owes(store.run_at(s.run_id), matrix.wanted(s))]


def check(store: ResultStore, matrix: Matrix, owed: Sequence[RunSpec]) -> None:
    """Check all that can be checked before cells start: files, packages, plugins on few samples.

    Raises:
        ConfigError: lists all problems.
    """
    if owed:
        _refuse_unwritten(matrix, owed)
        check_machine(store, matrix)
        try_plugins(matrix, owed)


def is_whole(only: Iterable[str], changed: Iterable[str]) -> bool:
    """Whether the filters `only` and overridden keys leave the grid's cells and settings unchanged.

    Overrides of `results`, `name` and `launch` do not count as changes.
    """
    elsewhere = (key in ("results", "name") or key.startswith("launch.") for key in changed)
    return not list(only) and all(elsewhere)


def enter(store: ResultStore, matrix: Matrix, owed: Sequence[RunSpec], *, whole: bool) -> str:
    """Write matrix.json of the grid, and set the state of finished cells to done.

    `whole`: see `save_matrix`, whose note is returned.

    Raises:
        ConfigError: the results folder cannot be written.
    """
    note = save_matrix(store.prepare(), matrix, whole=whole)
    for spec in matrix.specs:
        if spec not in owed:
            _settle(store.open(spec))
    return note


def edited(store: ResultStore, matrix: Matrix) -> list[str]:
    """Notes on plugins whose file differs from that with which existing rows were made."""
    changed: Counter[str] = Counter()
    for spec in matrix.specs:
        now = own_sources(spec, matrix.request)
        if not now:
            continue
        run = store.run_at(spec.run_id)
        try:
            rows, earlier = run.rows(), run.plugins()
        except (HarnessError, OSError):
            continue  # a damaged file is told by whoever needs it
        then = [rows[m].plugins or earlier for m in matrix.wanted(spec) if m in rows]
        for plugin, digest in now.items():
            changed[plugin] += any(known.get(plugin, digest) != digest for known in then)
    return [
        f"the file of {plugin} was edited since {runs} of these runs, whose numbers stay; if the"
        " edit changes numbers, raise `revision` on the class and they are made anew"
        for plugin, runs in changed.items()
        if runs
    ]


def check_machine(store: ResultStore | None, matrix: Matrix) -> None:
    """Check before training that weights, statistics and packages are present and valid.

    `store`: the results folder with runs to be continued, if any.

    Raises:
        ConfigError: lists all that are missing or wrong.
    """
    wrong = missing_weights(matrix.extractors) + wrong_files(matrix.grid.needs)
    wrong += unready_objectives(spec.objective for spec in matrix.specs)
    wrong += missing_trackers(matrix.request.track)
    config = matrix.grid.launch.accelerate_config
    if config and not Path(config).is_file():
        wrong.append(
            f"launch.accelerate_config: {config}: no such file; `accelerate config` makes one"
        )
    for name, file in matrix.request.references.items():
        from harness.api import create
        from harness.evaluate.reference import load_reference

        try:
            load_reference(Path(file["file"]), create("extractor", name), file["n"])
        except HarnessError as error:
            wrong.append(f"evaluate.references.{name}: {error}")
    for run in [store.run_at(spec.run_id) for spec in matrix.specs] if store else []:
        if lacking := run.without_averages(matrix.request.averages):
            wrong.append(without_average(run.path, lacking))
    request = matrix.request
    wrong += misfitting_times(request.samplers, request.nfe, matrix.specs)
    if wrong:
        raise told_at_once(wrong, f"grid {matrix.grid.name!r}")


def try_plugins(matrix: Matrix, owed: Sequence[RunSpec]) -> None:
    """Try the plugins of unfinished cells on a few samples (harness/train/trial.py).

    Raises:
        ConfigError: lists all that fail.
    """
    if not any(is_untried(*plugin) for plugin in _plugins(matrix, owed)):
        return  # before torch is imported, which takes longer than all trials
    from harness.train.trial import failures

    if wrong := failures(matrix, owed):
        raise told_at_once(wrong, f"grid {matrix.grid.name!r}", "plugins fail")


def _plugins(matrix: Matrix, owed: Sequence[RunSpec]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(kind, name, parameters that matter for a trial) of every plugin that cells use."""
    request = matrix.request
    return [
        *(("teacher", spec.teacher.name, {}) for spec in owed),
        *(("dataset", spec.dataset.name, {}) for spec in owed if spec.dataset.name != "teacher"),
        *(("backbone", spec.backbone["name"], {}) for spec in owed if spec.backbone),
        *(("precond", spec.precond.name, {}) for spec in owed),
        *(("objective", spec.objective.name, spec.objective.changed) for spec in owed),
        *(("extractor", name, {}) for name in matrix.extractors),
        *(("metric", *request.metric_plugin(label).values()) for label in request.metrics),
    ]


def _refuse_unwritten(matrix: Matrix, owed: Sequence[RunSpec]) -> None:
    """Refuse plugins defined in a notebook or script, which worker processes could not import.

    Raises:
        ConfigError: says which, and what to do.
    """
    for kind, name, _ in _plugins(matrix, owed):
        if registry.get(kind, name).__module__ == "__main__":
            raise ConfigError(
                f"{kind} {name!r} is known to this process alone, and cells run in others: write it"
                " into a file and name that, run(..., plugins=['FILE.py']), or use run_cell"
            )


def misfitting_times(
    samplers: Iterable[str], nfe: Iterable[int], specs: Iterable[RunSpec]
) -> list[str]:
    """Errors of `@trained` samplers whose steps exceed the training grid of an objective."""
    walked = [text for text in samplers if Sampler.read(text).times == "trained"]
    if not walked:
        return []  # before torch is imported
    from harness.api import TeacherSpec, create
    from harness.core.sampling import nodes

    wrong: dict[str, None] = {}
    spec, most = TeacherSpec((1,), 0.5, "any"), max(nfe)
    for plugin in {cell.objective.label: cell.objective for cell in specs}.values():
        grid = create("objective", plugin.name, plugin.params).trained_times(spec)
        for text in walked:
            try:
                nodes(Sampler.read(text), most, spec, grid)
            except ValueError as error:
                wrong[f"evaluate.samplers: {error} (objective {plugin.label})"] = None
    return list(wrong)


def _owes(run: Run, wanted: Sequence[Measure]) -> bool:
    try:
        owes = bool(run.missing(wanted))
        _ = owes or run.spec
    except (DamagedError, FileNotFoundError):
        return owes  # spec.json, which is written anew
    except ArtifactError:
        return True  # told where it is run, so that its neighbours are run too
    return owes


def _settle(run: Run) -> None:
    """Set the state of a cell with all measurements to done, in case it was killed before that."""
    whole = run.known_status()["state"] == State.DONE and not run.is_torn()
    if not whole and taken(lease := run.lease()):
        run.mark_done()  # else it is at work, for another grid
        lease.release()
