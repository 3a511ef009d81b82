"""Who may import whom, read from the source; and which verbs must not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("harness", "preconds", "students", "teachers")

#: package -> what of ours its modules may import at run time; nobody imports plugins by their names
ALLOWED = {
    "harness.__main__": {"harness.cli"},
    "harness.cli": {"harness"},
    "harness.bench": {
        "harness.bench",
        "harness.api",
        "harness.backbones",
        "harness.config",
        "harness.core",
        "harness.data",
        "harness.evaluate",
        "harness.store",
        "harness.train",
    },
    "harness.runner": {
        "harness.runner",
        "harness.config",
        "harness.errors",
        "harness.registry",
        "harness.store",
    },
    "harness.runner.prepare": {
        "harness.api",
        "harness.config",
        "harness.core",
        "harness.errors",
        "harness.evaluate",
        "harness.registry",
        "harness.store",
        "harness.train",
    },
    "harness.train": {
        "harness.train",
        "harness.api",
        "harness.backbones",
        "harness.config",
        "harness.contract",
        "harness.core",
        "harness.digest",
        "harness.errors",
        "harness.evaluate",
        "harness.registry",
        "harness.store",
    },
    "harness.digest": set(),
    "harness.errors": set(),
    "harness.registry": {"harness.errors"},
    "harness.core": {"harness.core"},
    "harness.store.records": {"harness.digest", "harness.visible"},
    "harness.home": set(),
    "harness.visible": set(),
    "harness.api": {
        "harness.api",
        "harness.digest",
        "harness.core",
        "harness.registry",
        "harness.errors",
        "harness.home",
    },
    "harness.api.runs": {
        "harness.api",
        "harness.config",
        "harness.errors",
        "harness.registry",
        "harness.report",
        "harness.runner",
        "harness.store",
        "harness.train",
    },
    "harness.contract": {"harness.api", "harness.core", "harness.errors", "harness.registry"},
    "harness.backbones": {"harness.backbones", "harness.api", "harness.core", "harness.errors"},
    "harness.backbones.plugins": {"harness.backbones", "harness.api"},
    "harness.backbones.contract": {
        "harness.backbones",
        "harness.api",
        "harness.contract",
        "harness.errors",
        "harness.registry",
    },
    "harness.objectives": {"harness.objectives", "harness.api", "harness.core"},
    "harness.data": {"harness.data", "harness.api", "harness.core"},
    "harness.config": {
        "harness.config",
        "harness.api",
        "harness.registry",
        "harness.errors",
        "harness.home",
        "harness.core.sampler",
        "harness.store.records",
    },
    "harness.store": {
        "harness.store",
        "harness.digest",
        "harness.errors",
        "harness.home",
        "harness.visible",
    },
    "harness.evaluate": {
        "harness.evaluate",
        "harness.api",
        "harness.core",
        "harness.data.images",
        "harness.registry",
        "harness.store",
    },
    "harness.report": {
        "harness.report",
        "harness.store",
        "harness.errors",
        "harness.core.sampler",
        "harness.visible",
    },
    "harness.bench.forecast": {
        "harness.api",
        "harness.config",
        "harness.errors",
        "harness.registry",
        "harness.store",
    },
    "harness.export": {
        "harness.export",
        "harness.api",
        "harness.backbones",
        "harness.core",
        "harness.store",
    },
    "harness.export.student": set(),
    "preconds": {"preconds", "harness.api", "harness.core"},
    "teachers": {"teachers", "harness.api", "harness.core", "harness.backbones"},
    "students": {
        "students",
        "harness.api",
        "harness.core",
        "harness.registry",
        "harness.store",
        "harness.train",
        "teachers",
    },
    "teachers.openai_format": {"teachers", "harness.api"},
    "teachers.edm_format": {
        "teachers",
        "harness.api",
        "harness.backbones",
        "harness.store.files",
    },
    "teachers.training": {
        "teachers",
        "harness.api",
        "harness.core",
        "harness.backbones",
        "harness.config.reading",
        "harness.store.files",
        "harness.train.checkpoint",
    },
}


def modules():
    for package in ROOTS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


MODULES = dict(modules())


def imports(path):
    """Names imported at run time: everything outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in typing_only:
            yield from named(node)


def named(node):
    """Modules that one import names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in MODULES else node.module


def at_import(path):
    """Names imported before anything is called, and those for the eyes of type checkers."""
    todo = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from named(node)
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def within(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(
    ("name", "path"), list(MODULES.items()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_layers(name, path):
    rule = max((p for p in ALLOWED if within(name, p)), key=len, default=None)
    assert rule or name == "harness", f"{name}: say in ALLOWED what it may import"
    ours = [i for i in imports(path) if i.split(".")[0] in ROOTS]
    wrong = [i for i in ours if not any(within(i, to) for to in ALLOWED.get(rule, ()))]
    assert not wrong, f"{name} may not import {wrong}"


def test_no_import_goes_in_a_circle():
    """Nor does one under `if TYPE_CHECKING`; what a function imports when it is called may."""
    graph = {name: {i for i in at_import(path) if i in MODULES} for name, path in MODULES.items()}
    graph = {name: needs - {name} for name, needs in graph.items()}
    while free := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - free for name, needs in graph.items() if name not in free}
    assert not graph, f"a circle is among {sorted(graph)}"


def run_without_torch(*arguments):
    code = (
        "import sys, harness.cli; code = harness.cli.main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_plan_and_list_import_no_torch(grid):
    for arguments in (["plan", "--matrix", grid], ["list"], ["run", "--matrix", grid, "--dry-run"]):
        done = run_without_torch(*arguments)
        assert done.returncode == 0, done.stderr


def test_a_metric_that_its_extractor_cannot_serve_is_refused_without_torch(grid):
    axes = ["axes.teacher=[unet]", "evaluate.metrics=[inception-score]"]
    asked = [*axes, "evaluate.extractors=[lite0-imagenet]"]
    done = run_without_torch("plan", "--matrix", grid, *(f"--set={each}" for each in asked))
    assert done.returncode == 2, done.stderr
    assert "evaluate: extractor 'lite0-imagenet' has no class logits" in done.stderr
