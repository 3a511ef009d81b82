"""What the documentation says is so: its commands parse, its files run, its numbers are counted."""

import importlib
import re
import runpy
import sys

import matplotlib
import pytest
import torch
import yaml

from harness.api import Batch, create, create_precond, create_teacher
from harness.backbones.mlp import MLP
from harness.cli import VERBS, main
from harness.config.schema import Grid
from harness.core.student import Student
from tests.integration.test_new_precond import python
from tests.unit.documents import DOCS, commands, titled_blocks

FIGURES = DOCS / "figures"


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda v: v if v is str else None)
def test_commands_parse(page, words, monkeypatch):
    module = importlib.import_module(VERBS[words[0]][0])
    monkeypatch.setattr(module, "main", lambda args: 0)
    monkeypatch.setattr("harness.registry.registry.load_file", lambda path: None)
    assert main(words) == 0, f"{page}: {words}"


def test_no_formula_is_taken_for_html():
    code = re.compile(r"```.*?```|`[^`]*`|^    .*?$|<!--.*?-->", re.S | re.M)
    for page in DOCS.glob("*.md"):
        assert not re.findall(r"<[A-Za-z/][^>]*>", code.sub("", page.read_text())), page.name


def test_pages_and_figures_belong_together():
    shown = set()
    for page in DOCS.glob("*.md"):
        shown |= set(re.findall(r"\]\(figures/(\w+\.svg)\)", page.read_text()))
    assert shown == {path.name for path in FIGURES.glob("*.svg")}


def test_figures_draw(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["draw.py", str(tmp_path)])
    monkeypatch.syspath_prepend(str(FIGURES))
    with matplotlib.rc_context():
        runpy.run_path(str(FIGURES / "draw.py"), run_name="__main__")
    for script in FIGURES.glob("*.py"):
        sys.modules.pop(script.stem, None)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {path.name for path in FIGURES.glob("*.svg")}
    for name, text in drawn.items():
        title = re.search(r"<dc:title>(.*?)</dc:title>", text, re.S)[1]
        assert title in (FIGURES / name).read_text(), f"{name} is older than its script"


def test_shown_preconditionings_keep_the_contract_and_the_teacher_is_one(tmp_path):
    files = titled_blocks("write-precond.md") | titled_blocks("write-teacher.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    plugins = [w for n in ("mine", "warped", "measured") for w in ("--plugin", f"{n}.py")]
    both = (
        "import runpy, sys; from harness.cli import main;"
        "assert main(sys.argv[1:]) == 0; runpy.run_path('test_square.py')"
    )
    arguments = ["-c", both, "check", "mine", "warped", "measured", *plugins]
    code, said = python(*arguments, cwd=tmp_path)
    assert code == 0, said
    assert said.count(" ok ") == 3 * 9
    assert said.count("t = ") == 5


def test_the_other_kinds_of_plugin_run_together(tmp_path):
    files = titled_blocks("write-more.md") | titled_blocks("write-teacher.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    plugins = [f"--plugin={n}.py" for n in ("moons", "local", "wide", "spread", "radius")]
    small = {
        "axes.precond": "[ctm]",
        "axes.seed": "[0]",
        "train.batch": "32",
        "backbone": "{wide: {width: 16, fit_steps: 5, fit_batch: 32}}",
        "budgets": "[2, 4]",
        "evaluate.nfe": "[1]",
        "evaluate.samples": "64",
        "evaluate.ode_steps": "16",
    }
    changes = [f"--set={key}={value}" for key, value in small.items()]
    code, said = python(
        "-m", "harness", "run", "--matrix", "own.yaml", *plugins, *changes, cwd=tmp_path
    )
    assert code == 0, said
    assert "spread, radius, n=64 against 300" in said
    assert "empirical(bandwidth=0.05" in said


class Counted:
    """A student whose network evaluations are counted: forwards, and backwards as they will be."""

    def __init__(self, student, trained):
        self.student, self.trained, self.F = student, trained, 0

    def jump(self, x, t, s, labels=None):
        if not torch.is_grad_enabled():
            self.F += len(x)
        elif self.trained:
            self.F += 3 * len(x)  # forward, and backward to input and weights
        else:
            self.F += 2 * len(x)  # forward, and backward to the input
        return self.student.jump(x, t, s, labels)

    def denoise(self, x, t, labels=None):
        self.F += 3 * len(x)
        return self.student.denoise(x, t, labels)


def test_the_cost_page_is_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    cost = runpy.run_path(str(FIGURES / "cost.py"))
    grid = yaml.safe_load((DOCS.parent / "grids" / "cifar10.yaml").read_text())
    assert cost["tables"](Grid.model_validate(grid)) in (DOCS / "paper.md").read_text()

    # the evaluations that the real objective makes, on a problem that costs nothing
    teacher = create_teacher("gmm")
    sigma_data = teacher.spec.sigma_data
    student = Student(
        MLP(2, sigma_data=sigma_data, width=16, depth=1),
        create_precond("ctm", sigma_data=sigma_data),
    )
    online, target = Counted(student, True), Counted(student, False)
    solved = 0
    denoise = teacher.denoise

    def counted(x, *rest):
        nonlocal solved
        solved += len(x)
        return denoise(x, *rest)

    monkeypatch.setattr(teacher, "denoise", counted)
    objective = create("objective", "ctm", {"nodes": 18, "steps": 17})
    steps, batch = 250, 32
    batch_index = torch.arange(batch)
    for step in range(steps):
        part = Batch(torch.zeros(batch, 2), None, batch_index, batch_index, step, 0)
        for term in objective.terms(online, target, teacher, part).values():
            term()
    measured = (solved + online.F + target.F) / (steps * batch)
    expected = sum(value for _, value in cost["ctm_step"](18, 17))
    assert measured == pytest.approx(expected, rel=0.03)
