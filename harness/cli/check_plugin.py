"""`check KIND NAME`: run the trial of a plugin that a grid runs before its first cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from harness.cli.teacher_argument import parse_plugin
from harness.config.plugins import plugin_spec
from harness.config.schema import PluginRef
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, ConfigError, HarnessError
from harness.store.records import PluginSpec, RunSpec

if TYPE_CHECKING:
    from harness.contract import Finding
    from harness.train.trial import TrialSetup

#: kinds that are checked so; preconditionings have a contract of their own
KINDS = ("backbone", "objective", "teacher", "dataset", "extractor", "metric")
#: the default of --teacher; of what shape are samples of a backbone that does not take its vectors
DEFAULT, IMAGES = "gmm", (3, 16, 16)
#: vectors that a metric is tried on
VECTORS = 256


def check_plugins(kind: str, names: Sequence[str], teacher: str) -> int:
    """A line for each check of each plugin; exit code 1 if one fails.

    Args:
        teacher: whose samples, noise range and data it is tried on, NAME or 'NAME: {params}'.

    Raises:
        ConfigError: no name is given, or there is none of that name.
    """
    if not names:
        raise ConfigError(f"check {kind}: say which, e.g. `check {kind} NAME`")
    plugins = {name: _spec(kind, name) for name in names}
    rows = []
    for name, plugin in plugins.items():
        at = {"teacher": teacher} | ({kind: name} if kind in ("teacher", "dataset") else {})
        for found in _try(plugin, at, kind):
            rows.append([name, found.check, "ok" if found.ok else "FAILED", found.detail])
    print(tabulate(rows, tablefmt="plain"))
    return EXIT_DONE if all(row[2] == "ok" for row in rows) else EXIT_CELL_FAILED


def _spec(kind: str, text: str) -> PluginSpec:
    name, params = parse_plugin(text)
    return plugin_spec(kind, PluginRef(name=name, params=params))


def _try(plugin: PluginSpec, at: dict[str, str], kind: str) -> list[Finding]:
    """All findings of a backbone; of another plugin the one, whether its trial ends well."""
    from harness.api import create
    from harness.backbones.contract import check_architecture
    from harness.contract import Finding
    from harness.train.trial import TrialSetup

    try:
        setup = TrialSetup(_cell(at))
        if kind == "backbone":
            made, spec = create("backbone", plugin.name, plugin.params), setup.own.spec
            if at["teacher"] == DEFAULT and made.unfit(spec.shape):
                spec = replace(spec, shape=IMAGES)
            return check_architecture(made, spec)
        return [Finding("trial", True, _told(setup, plugin, kind, at["teacher"] == DEFAULT))]
    except HarnessError as error:
        return [Finding("trial", False, str(error))]


def _told(setup: TrialSetup, plugin: PluginSpec, kind: str, default: bool) -> str:
    """Try it, and say on what; `default`: no teacher was chosen whose shape data must have."""
    from harness.train.trial_metrics import try_extractor, try_metric

    extractors, samples = ["raw"], setup.own.spec.shape
    trial: dict[str, Any] = {
        "objective": lambda: setup.try_objective(plugin),
        "teacher": setup.try_teacher,
        "dataset": lambda: setup.try_dataset(any_shape=default),
        "extractor": lambda: try_extractor(plugin.name, samples),
        "metric": lambda: try_metric(
            {"name": plugin.name, "params": plugin.params}, extractors, VECTORS, samples
        ),
    }
    found = trial[kind]()
    what = {
        "objective": "finite loss and gradients",
        "teacher": "finite denoiser",
        "dataset": "float32 samples",
        "extractor": f"{found} features",
        "metric": f"a finite number of {VECTORS} vectors",
    }
    shape = found if kind == "dataset" else setup.own.spec.shape
    return f"{what[kind]}, samples {list(shape)}"


def _cell(at: dict[str, str]) -> RunSpec:
    """A cell on the teacher and data that a plugin is tried on; nothing of it is trained."""
    axes = {"precond": "ctm", "objective": "ctm", "dataset": "teacher"} | at
    return RunSpec(
        **{axis: _spec(axis, text) for axis, text in axes.items()},
        seed=0,
        train={},
        backbone=None,
        digests={},
    )
