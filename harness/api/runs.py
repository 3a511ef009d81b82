"""What the command line does, from Python: run a grid or a cell, read results, load a student.

Errors are exceptions whose text is the sentence that the command line prints. The one module of
`harness.api` that uses the rest of the harness, inside its functions: importing it costs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.create import create
from harness.api.student import TrainedStudent
from harness.errors import CellsFailed, ConfigError
from harness.registry import registry

if TYPE_CHECKING:
    import pandas as pd

    from harness.store.records import EvalRow

Grid = str | Path | Mapping[str, Any]
#: axis -> the plugins or seeds to keep on it, one or several
Only = Mapping[str, Any]


def run(
    grid: Grid,
    results: str | Path | None = None,
    *,
    only: Only | None = None,
    plugins: Sequence[str | Path] = (),
    quiet: bool = False,
    **overrides: Any,
) -> pd.DataFrame:
    """Train and evaluate the unfinished cells of a grid in separate processes; return its rows.

    Args:
        grid: a grid file, or what one holds as a dict, in which `version` and `name` may be left
            out.
        results: the results folder, instead of the grid's.
        only: some cells, e.g. `{"precond": ["ctm", "arc"], "seed": 0}`.
        plugins: Python files with plugins of your own, which are run.
        quiet: print no progress.
        overrides: values that replace those of the grid; `train__lr=1e-4` sets `train.lr`.

    Returns:
        One row per number that the grid asks for, as `results` has them.

    Raises:
        ConfigError: something is wrong with the grid, a file or a plugin: nothing was started.
        CellsFailed: some cells did not finish; `rows` are those of the others.
        KeyboardInterrupt: interrupted; cells are checkpointed, and the same call continues.
    """
    from contextlib import nullcontext

    from harness.config.from_python import cells_of
    from harness.report.frame import read_rows
    from harness.runner import prepare
    from harness.runner.progress import Progress
    from harness.runner.scheduler import Scheduler
    from harness.runner.slurm import Slurm
    from harness.store.store import ResultStore

    if results is not None:
        overrides["results"] = str(results)
    matrix = cells_of(grid, only, plugins, overrides)
    store = ResultStore(matrix.grid.results)
    owed = prepare.owed_cells(store, matrix)
    notes = [*prepare.edited(store, matrix), *matrix.notes]
    prepare.check(store, matrix, owed)
    whole = prepare.is_whole(only or (), (key.replace("__", ".") for key in overrides))
    if note := prepare.enter(store, matrix, owed, whole=whole):
        notes.append(note)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    specs = {spec.run_id: spec for spec in matrix.specs}
    wanted = {run_id: set(matrix.wanted(spec)) for run_id, spec in specs.items()}
    if not owed:
        return _warned(read_rows([store], specs, wanted))
    with nullcontext() if quiet else Progress(matrix) as progress:
        tell = progress.update if progress else lambda runner: None
        runner: Scheduler | Slurm
        if matrix.grid.launch.launcher == "local":
            runner = Scheduler(store, matrix.specs, matrix.request, matrix.grid.launch, tell)
            outcome = runner.run()
        else:
            name, launch = matrix.grid.name, matrix.grid.launch
            runner = Slurm(store, name, matrix.specs, matrix.request, launch, tell)
            runner.submit()
            outcome = runner.wait()
    if outcome.interrupted:
        raise KeyboardInterrupt("the same call continues from here")
    rows = _warned(read_rows([store], specs, wanted))
    if outcome.failed:
        raise CellsFailed(outcome.failed, rows)
    return rows


def run_cell(
    grid: Grid,
    *,
    only: Only | None = None,
    device: str | None = None,
    on_row: Callable[[EvalRow], object] = lambda row: None,
    artifacts: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    **overrides: Any,
) -> pd.DataFrame:
    """Train and evaluate one cell in this process, without a results folder; return its rows.

    Plugins may be defined in the calling notebook or script. Rows are those of `run`, bit for bit
    if device and number of CPU threads are the same.

    Args:
        grid: see `run`; exactly one cell of it.
        only: which one, e.g. `{"precond": "ctm", "seed": 0}`.
        device: auto, cpu or cuda, instead of `launch.device`.
        on_row: called with each row as soon as it is known: `row.step`, `row.nfe`, `row.metric`,
            `row.value` and the other columns of `results` that differ within a cell.
        artifacts: a results folder whose calibrations, fitted backbones and references are reused
            and extended; if None, they are computed for this cell and discarded.
        plugins: see `run`.
        overrides: see `run`.

    Raises:
        ConfigError: something is wrong, or the grid has several cells.
        HarnessError: training diverged.
    """
    from harness.config.from_python import cells_of
    from harness.runner import prepare
    from harness.train import in_process

    matrix = cells_of(grid, only, plugins, overrides)
    if len(matrix.specs) != 1:
        raise ConfigError(
            f"grid {matrix.grid.name!r} has {len(matrix.specs)} cells, run_cell takes one: say"
            " which, e.g. only={'precond': 'ctm', 'seed': 0}"
        )
    prepare.check_machine(None, matrix)
    prepare.try_plugins(matrix, matrix.specs)
    (spec,) = matrix.specs
    rows = in_process.run_cell(
        spec,
        matrix.request,
        device=device or matrix.grid.launch.device,
        results=Path(artifacts) if artifacts else None,
        on_row=on_row,
    )
    from harness.report.frame import frame_of, label_cells
    from harness.report.merge import FoundRun

    run_id = spec.run_id
    return frame_of({run_id: FoundRun(run_id, rows)}, label_cells({run_id: spec}))


def results(*folders: str | Path, grid: str | None = None) -> pd.DataFrame:
    """All measurements in one or several results folders (default: `results`), as a table.

    A run that is in several folders is merged; where values differ the first folder counts, with a
    warning.

    Args:
        grid: name of a grid; only its measurements are returned.

    Returns:
        One row per number. Columns: `run_id`; `precond`, `teacher`, `objective`, `dataset`,
        `setting` and `seed` name the cell; `step`, `images` and `seconds` of training; `nfe`,
        `sampler`, `ema`, `eval_seed`, `metric`, `extractor`, `n` and `reference_n` say what was
        measured; `value`, `std` (NaN where there is none), `lower_is_better`. docs/python.md has
        their types.

    Raises:
        ConfigError: there is no such results folder or grid.
    """
    from harness.report.frame import load_rows, read_rows
    from harness.report.merge import read_grid, read_specs
    from harness.store.store import ResultStore

    stores = [ResultStore(Path(f).expanduser()).existing() for f in folders or ("results",)]
    if grid is not None:
        matrix, notes = read_grid(stores, grid)
        return _warned((load_rows(stores, matrix), notes))
    specs, unreadable = read_specs(stores)
    rows, notes = read_rows(stores, specs)
    return _warned((rows, [*unreadable, *notes]))


def load_student(
    path: str | Path, format: str = "auto", *, results: str | Path = "results", **params: Any
) -> TrainedStudent:
    """Load a trained student, e.g. `load_student("cd_imagenet64_l2.pt")`, or a run by its id.

    `student(x, t, s)` is a jump from t to s; `student.sample(16, nfe=2)` draws samples.

    Args:
        path: a checkpoint file, the folder of a run, or the id of a run or a prefix of it.
        format: one of `list_students()`, or `auto`: the first format that recognises the file.
        results: the results folder in which a run id is looked up.
        params: parameters of the format, for what the file does not contain; `list students` shows
            them. For a run, `step` selects the budget, by default the last.

    Raises:
        ConfigError: no such file or run, no format recognises it, or it cannot be loaded.
    """
    path = student_path(path, results)
    if format == "auto":
        names = registry.names("student")
        found = (name for name in names if registry.get("student", name).recognises(path))
        chosen = next(found, None)
        if chosen is None:
            raise ConfigError(
                f"{path}: is of no format that students are known in ({', '.join(names)}); a"
                " teacher is given to the harness as one, another format by its name"
            )
        format = chosen
    student: TrainedStudent = create("student", format, params).load(path)
    return student


def student_path(named: str | Path, results: str | Path = "results") -> Path:
    """The path of a student: `named` if it exists, else the folder of the run with that id prefix.

    Raises:
        ConfigError: there is no such file, folder or run.
    """
    from harness.store.store import ResultStore

    path = Path(named).expanduser()
    if path.exists():
        return path
    if len(path.parts) > 1 or path.suffix:
        raise ConfigError(
            f"{path}: no such file or folder; name a student's file, or a run's folder or id"
        )
    try:
        return ResultStore(results).existing().run(str(named)).path
    except ConfigError as error:
        raise ConfigError(f"{named}: no such file or folder, and no run: {error}") from None


def _warned(found: tuple[pd.DataFrame, Iterable[str]]) -> pd.DataFrame:
    """Issue each note as a Python warning and return the rows."""
    rows, notes = found
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return rows
