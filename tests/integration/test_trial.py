"""What plugins get wrong is told before the first cell starts: one sentence, nothing trained."""

import pytest

from harness.registry import registry
from tests.conftest import ROOT

#: kind -> a plugin of it that does well; %s is what its method returns
SOURCES = {
    "precond": """\
from harness.api import Coeffs, Preconditioning, register_precond

@register_precond("wrong")
class Wrong(Preconditioning):
    def coeffs(self, t, s):
        import torch
        skip, out = s / t, (1 - s / t) * t * self.sigma_data / (t * t + self.sigma_data**2).sqrt()
        skip = skip + (1 - s / t) * self.sigma_data**2 / (t * t + self.sigma_data**2)
        return %s
""",
    "outer": """\
from harness.api import DenoiserForm, register_precond

@register_precond("wrong")
class Wrong(DenoiserForm):
    def outer(self, t, s):
        return %s
""",
    "objective": """\
from harness.api import Objective, register_objective

@register_objective("wrong")
class Wrong(Objective):
    def terms(self, student, target, teacher, batch):
        import torch
        t = torch.full((len(batch.x0),), 80.0, dtype=torch.float64)
        end = student.jump(80 * batch.x0, t, torch.full_like(t, 0.002), batch.labels)
        return %s
""",
    "metric": """\
from harness.api import Metric, Score, register_metric

@register_metric("wrong")
class Wrong(Metric):
    def compute(self, generated, reference):
        return %s
""",
    "extractor": """\
from harness.api import Extractor, register_extractor

@register_extractor("wrong")
class Wrong(Extractor):
    def __call__(self, samples):
        return %s
""",
    "trained": """\
import torch
from harness.objectives.ctm import ConsistencyTrajectory
from harness.api import register_objective

@register_objective("wrong")
class Wrong(ConsistencyTrajectory):
    def trained_times(self, spec):
        return %s
""",
    "measured": """\
from harness.api import Coeffs, Preconditioning, create_precond, register_precond

@register_precond("wrong")
class Wrong(Preconditioning):
    def calibrate(self, probe):
        return %s
    def coeffs(self, t, s):
        return create_precond("ctm", sigma_data=self.sigma_data).coeffs(t, s)
""",
    "teacher": """\
from harness.api import Teacher, TeacherSpec, create_teacher, register_teacher

@register_teacher("wrong")
class Wrong(Teacher):
    def __init__(self, params=None):
        super().__init__(params)
        self.spec = TeacherSpec((2,), 0.5, "wrong")

    def denoise(self, x, sigma, labels=None):
        return %s

    def dataset(self):
        return create_teacher("gmm").dataset()
""",
    "dataset": """\
from harness.api import Dataset, DatasetSpec, register_dataset

@register_dataset("wrong")
class Wrong(Dataset):
    spec = DatasetSpec((2,), "wrong")

    def draw(self, seed, purpose, numbers):
        import torch
        return %s
""",
}
GOOD = {
    "teacher": "x / (1 + sigma.reshape(-1, 1)).to(x.dtype)",
    "dataset": "torch.zeros(len(numbers), 2), None",
    "precond": "Coeffs(skip, out)",
    "outer": "(1 - s / t, s / t)",
    "objective": "{'loss': lambda: end.square().mean()}",
    "metric": "Score(float(generated.mean() - reference.mean()), 0.1)",
    "extractor": "samples.flatten(1)",
    "trained": "super().trained_times(spec)",
    "measured": "{'sigma': probe.sigma}",
}
#: (kind, what it returns, line it is blamed on, what is said)
BAD = [
    ("precond", "(skip, out)", 5, "coeffs gave a tuple of 2, expected Coeffs(skip, out)"),
    ("precond", "None", 5, "coeffs gave None, expected Coeffs"),
    ("precond", "skip", 5, "coeffs gave a Tensor of shape [23] in float64, expected Coeffs"),
    ("precond", "Coeffs(skip, 0.5)", 5, "coeffs gave out = a float, expected a float64 tensor"),
    ("precond", "Coeffs(skip, out[:3])", 5, "out has shape [3] for t and s of shape [23]"),
    ("precond", "Coeffs(skip.float(), out)", 5, "skip is torch.float32, not float64"),
    ("precond", "Coeffs(skip, out / (t - 80))", 5, "finite: out is "),
    ("precond", "Coeffs(skip, out + 1)", 5, "boundary: not exact at s = t: out off by 1.0e+00"),
    ("precond", "Coeffs(skip, 1 / [])", 9, "TypeError: unsupported operand"),
    ("outer", "1 - s / t", 5, "outer gave a Tensor of shape [23] in float64, expected (alpha"),
    ("outer", "(1 - s / t, 0.5)", 5, "outer gave a tuple of 2, expected (alpha, beta), two"),
    ("measured", "None", 5, "calibrate gave None, expected {name: tensor}"),
    ("measured", "{'a': 1 / 0}", 6, "ZeroDivisionError: division by zero"),
    ("objective", "None", 5, "terms gave None, expected {name: function that gives the loss}"),
    ("objective", "(end,)", 5, "terms gave a tuple of 1, expected {name: function"),
    (
        "objective",
        "{'loss': end.mean()}",
        5,
        "term 'loss' is a Tensor of shape [] in float32, expected",
    ),
    ("objective", "{'loss': lambda: 1.0}", 5, "term 'loss' gave a float, expected a scalar tensor"),
    (
        "objective",
        "{'loss': lambda: end}",
        5,
        "term 'loss' gave a Tensor of shape [4, 2] in float32, expected",
    ),
    ("objective", "{'loss': lambda: end.mean() * float('nan')}", 5, "term 'loss' is nan on 4"),
    ("objective", "{'loss': lambda: end.detach().mean()}", 5, "does not depend on the student"),
    ("objective", "{'loss': lambda: end.nothing()}", 9, "AttributeError: 'Tensor' object has no"),
    ("metric", "None", 5, "compute gave None, expected a number or a Score"),
    ("metric", "(1.0, 2.0)", 5, "compute gave a tuple of 2, expected a number or a Score"),
    ("metric", "float('nan')", 5, "compute gave nan for 200 vectors of 2 features"),
    ("metric", "generated.nothing", 6, "AttributeError: 'Tensor' object has no attribute"),
    ("extractor", "None", 5, "gave None, expected a floating tensor [B, d]"),
    ("extractor", "samples.sum()", 5, "for 4 samples; expected floating vectors [B, d]"),
    ("extractor", "samples / 0", 5, "gave features that are not finite"),
    ("teacher", "None", 9, "denoise gave None, expected the dtype and shape of x, float32 [4, 2]"),
    ("teacher", "x.double()", 9, "denoise gave a Tensor of shape [4, 2] in float64, expected the"),
    ("teacher", "x / 0", 9, "denoise gave values that are not finite, at sigma 0.002 and 80"),
    ("teacher", "x.nothing", 10, "AttributeError: 'Tensor' object has no attribute"),
    ("dataset", "None", 7, "draw gave None, expected (samples, labels or None)"),
    ("dataset", "(numbers, None)", 7, "draw gave a Tensor of shape [4] in int64, expected float32"),
    ("trained", "[80, 1, 0.002]", 7, "trained_times gave a list of 3, expected a float64 tensor"),
    ("trained", "torch.tensor([80.0, 90.0, 0.002])", 7, "must decrease from sigma_max 80 to"),
]


pytestmark = pytest.mark.usefixtures("forgotten")


def ask(harness, grid, kind, returned):
    """`run` of a grid that names the plugin; its exit code, stderr and file."""
    file = grid.with_name("mine.py")
    file.write_text(SOURCES[kind] % returned)
    axis = {"outer": "precond", "measured": "precond", "trained": "objective"}.get(kind, kind)
    setting = {
        "precond": "axes.precond=[ctm, wrong]",
        "objective": "axes.objective=[wrong]",
        "metric": "evaluate.metrics=[wrong]",
        "extractor": "evaluate.extractors=[wrong]",
        "teacher": "axes.teacher=[wrong]",
        "dataset": "axes.dataset=[wrong]",
    }[axis]
    words = ["run", "--matrix", grid, "--plugin", file, "--set", setting]
    words += ["--set", "budgets=[2]", "--set", "backbone.fit_steps=2"]
    code, out, err = harness(*words)
    return code, err, file, out


@pytest.mark.parametrize("kind", ["objective", "metric", "extractor", "teacher", "dataset"])
def test_check_tries_one_plugin_of_any_kind(tmp_path, harness, kind):
    def check(returned):
        file = tmp_path / "mine.py"
        file.write_text(SOURCES[kind] % returned)
        code, out, _ = harness("check", kind, "wrong", "--plugin", file)
        return code, out

    _, returned, line, told = next(bad for bad in BAD if bad[0] == kind)
    code, out = check(returned)
    assert (code, "FAILED" in out, told in out) == (1, True, True), out
    assert f"mine.py:{line}" in out


def test_a_metric_that_needs_what_there_is_not_is_refused(grid, harness):
    file = grid.with_name("mine.py")
    source = (SOURCES["metric"] % "1.0").replace("    def", "    needs = 'feature'\n\n    def", 1)
    file.write_text(source)
    words = ("--plugin", file, "--set", "evaluate.metrics=[wrong]")
    code, _, err = harness("run", "--matrix", grid, *words)
    assert code == 2
    assert "needs is 'feature', none of moments, features, logits, samples, trajectory" in err


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_check_tries_a_dataset_in_its_own_shape(harness, name):
    code, out, err = harness("check", "dataset", name)
    assert code == 0, err
    assert "float32 samples" in out


def test_data_on_another_scale_are_told(tmp_path, harness):
    file = tmp_path / "mine.py"
    file.write_text(SOURCES["dataset"] % "127.5 * torch.ones(len(numbers), 2), None")
    with pytest.warns(UserWarning, match=r"dataset 'wrong' .* are they scaled to \[-1, 1\]\?"):
        assert harness("check", "dataset", "wrong", "--plugin", file)[0] == 0


@pytest.mark.parametrize("kind", ["objective", "metric", "extractor", "teacher", "dataset"])
def test_check_says_what_is_well(tmp_path, harness, kind):
    file = tmp_path / "mine.py"
    file.write_text(SOURCES[kind] % GOOD[kind])
    code, out, _ = harness("check", kind, "wrong", "--plugin", file)
    assert (code, out.split()[:3]) == (0, ["wrong", "trial", "ok"]), out


@pytest.mark.parametrize(("kind", "returned", "line", "told"), BAD, ids=str)
def test_what_fails_is_named_with_file_and_line_and_nothing_starts(
    grid, harness, kind, returned, line, told
):
    code, err, file, _ = ask(harness, grid, kind, returned)
    assert code == 2, err
    assert told in err
    assert f"{file}:{line}" in err, err
    assert "'wrong'" in err
    assert len(err.splitlines()) == 1
    assert not (grid.parent / "results").exists()


def test_plugins_that_do_well_are_run(grid, harness):
    """In one grid, so that trials of all kinds are passed together."""
    from harness.config.grid import load_grid
    from harness.config.matrix import expand
    from harness.train.trial import failures

    settings = []
    for kind, setting in {
        "precond": "axes.precond=[ctm, wrong]",
        "metric": "evaluate.metrics=[wrong, alignment, {kid: {subset_size: 50}}]",
        "extractor": "evaluate.extractors=[raw, wrong]",
        "objective": "axes.objective=[wrong, {ctm: {steps: 2}}]",
        "teacher": "axes.teacher=[wrong, gmm]",
        "dataset": "axes.dataset=[wrong, teacher]",
    }.items():
        file = grid.with_name(f"{kind}.py")
        file.write_text(SOURCES[kind] % GOOD[kind])
        registry.load_file(file)
        settings.append(setting)
    matrix = expand(load_grid(grid, settings))
    assert failures(matrix, matrix.specs) == []


def test_what_fails_later_is_named_too(grid, harness):
    """A trial sees step 0 alone."""
    code, err, file, _ = ask(
        harness, grid, "objective", "{'loss': lambda: end.mean() / (1 // (1 - batch.step))}"
    )
    assert code == 1
    assert f"ZeroDivisionError: integer division or modulo by zero, in {file}:9" in err
    assert "(objective 'wrong')" in err


def test_all_that_fails_is_told_at_once(grid, harness):
    file = grid.with_name("mine.py")
    file.write_text(SOURCES["precond"] % "None" + SOURCES["metric"] % "None")
    words = ["--set", "axes.precond=[ctm, wrong]", "--set", "evaluate.metrics=[wrong]"]
    code, _, err = harness("run", "--matrix", grid, "--plugin", file, *words)
    assert code == 2
    assert "grid 'tiny': 2 plugins fail:" in err
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize("kind", ["precond", "outer"])
def test_the_advised_command_works_as_it_is_written(grid, harness, kind):
    import shlex

    code, err, _, _ = ask(harness, grid, kind, "None")
    advised = err.partition("`")[2].partition("`")[0]
    words = shlex.split(advised)
    assert words[:4] == ["python", "-m", "harness", "check"]
    code, out, err = harness(*words[3:])
    assert (code, err) == (1, "")
    assert "gave None" in out


def test_a_network_stands_aside(grid, harness, monkeypatch):
    """No weights of a teacher are loaded for a trial."""
    from harness.config.grid import load_grid
    from harness.config.matrix import expand
    from harness.train.trial import failures
    from teachers import edm

    monkeypatch.setattr(edm.EDMTeacher, "backbone", property(lambda self: 1 / 0))
    for kind in ("measured", "objective"):
        file = grid.with_name(f"{kind}.py")
        file.write_text(SOURCES[kind].replace("80 * ", "") % GOOD[kind])
        registry.load_file(file)
    settings = ["axes.teacher=[unet]", "axes.precond=[ctm, wrong]", "axes.objective=[wrong]"]
    matrix = expand(load_grid(grid, settings))
    assert failures(matrix, matrix.specs) == []


def test_a_file_without_plugins_is_refused(harness, tmp_path):
    file = tmp_path / "plain.py"
    file.write_text("from harness.api import Metric\n\n\nclass Mine(Metric):\n    pass\n")
    code, _, err = harness("list", "--plugin", file)
    assert code == 2
    assert f"--plugin {file}: it registers no plugin" in err
    assert '@register_precond("plain")' in err


@pytest.mark.parametrize("returned", ["None", "(skip, out)", "1 / 0", "Coeffs(skip, 1.0)"])
@pytest.mark.parametrize("words", [["wrong"], ["wrong", "ctm", "--equivalence"], ["--equivalence"]])
def test_check_has_a_sentence_for_it(harness, tmp_path, words, returned):
    file = tmp_path / "mine.py"
    file.write_text(SOURCES["precond"] % returned)
    results = tmp_path / "results"
    code, out, err = harness("check", *words, "--plugin", file, "--results", results)
    assert (code, err) == (1, "")
    assert str(file) in out
    assert "wrong" in out


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("", "sampler 'exact@trained': objective 'wrong' ({file}:3) trains at continuous times"),
        ("samplers = 'exact'", "({file}:3): samplers must be a tuple of names"),
        ("samplers = ('heun',)", "({file}:3): samplers: 'heun' is no sampler"),
    ],
)
def test_an_objective_that_cannot_be_sampled_so_is_named(grid, harness, attribute, told):
    file = grid.with_name("mine.py")
    text = SOURCES["objective"] % GOOD["objective"]
    file.write_text(text.replace("(Objective):\n", f"(Objective):\n    {attribute}\n"))
    words = ["--set", "axes.objective=[wrong]", "--set", "evaluate.samplers=[exact@trained]"]
    code, _, err = harness("run", "--matrix", grid, "--plugin", file, *words)
    assert (code, told.format(file=file) in err) == (2, True), err


@pytest.mark.parametrize("kind", ["teacher", "dataset"])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('nothing')", "KeyError: 'nothing'"),
        ("super().__init__(params)", "`self.spec` is None, expected a"),
    ],
)
def test_a_teacher_or_dataset_that_cannot_be_made_is_named(grid, harness, kind, body, told):
    file = grid.with_name("mine.py")
    base = kind.capitalize()
    file.write_text(
        f"from harness.api import {base}, register_{kind}\n\n@register_{kind}('wrong')\n"
        f"class Wrong({base}):\n    def __init__(self, params=None):\n        {body}\n"
    )
    words = ["--plugin", file, "--set", f"axes.{kind}=[wrong]"]
    code, _, err = harness("plan", "--matrix", grid, *words)
    assert code == 2
    assert f"{kind} 'wrong' ({file}:" in err
    assert told in err


def test_check_refuses_what_is_no_preconditioning(harness):
    code, _, err = harness("check", "nosuch")
    assert (code, "no precond is called 'nosuch'" in err) == (2, True)


def test_the_contract_does_not_rest_on_assert():
    source = (ROOT / "harness" / "contract.py").read_text()
    assert "assert " not in source.partition('"""\n\nfrom')[2]
