"""Numbers from YAML: finite, no booleans, in base 10, in ranges that hold; every parameter."""

import math
from typing import get_args

import pytest
import torch
import yaml
from pydantic import BaseModel, Field, ValidationError

from harness.api import Params, Preconditioning, make_params
from harness.api.plugin import Settings, _kinds
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.config.plugins import plugin_spec
from harness.config.reading import parse
from harness.config.schema import Grid, PluginRef
from harness.core.schedule import karras
from harness.errors import ConfigError
from harness.registry import BUILT_IN, registry
from harness.store.records import RunSpec
from teachers.training.config import TeacherConfig
from tests.conftest import TINY
from tests.synthetic_results import spec, write_results


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield from models_below(annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


def models_below(model):
    """A model, and all that its fields hold."""
    yield model
    for field in model.model_fields.values():
        yield from models_in(field.annotation)


def numbers(kind):
    """(model, field) of every field that holds numbers of a kind, in grids and in plugins."""
    found = [model for whole in (Grid, TeacherConfig) for model in models_below(whole)]
    for plugin in BUILT_IN:
        for name in registry.names(plugin):
            found += models_below(registry.get(plugin, name).Params)
    cases = {
        (model, name): None
        for model in found
        for name, field in model.model_fields.items()
        if kind in _kinds(field.annotation) and bool not in _kinds(field.annotation)
    }
    return [pytest.param(*case, id=f"{case[0].__qualname__}.{case[1]}") for case in cases]


def refused(model, field, value):
    """Whether the value, alone or in the lists that the field may hold, is refused for itself."""
    for given in (value, [value], [[value]], {"x": [value]}):
        with pytest.raises(ValidationError) as caught:
            model.model_validate({field: given})
        own = [each for each in caught.value.errors() if each["loc"][:1] == (field,)]
        assert own, f"{model.__name__}.{field} takes {given!r}"


@pytest.mark.parametrize(("model", "field"), numbers(float))
def test_every_number_is_finite(model, field):
    for value in (math.inf, -math.inf, math.nan, "inf", "nan", "1e999"):
        refused(model, field, value)


@pytest.mark.parametrize(("model", "field"), numbers(int) + numbers(float))
def test_no_boolean_is_a_number(model, field):
    for value in (True, False):
        refused(model, field, value)


def test_the_scan_finds_them():
    names = {case.id for case in numbers(float) + numbers(int)}
    assert {"Train.lr", "Axes.seed", "Evaluate.nfe", "Grid.budgets", "Report.targets"} <= names
    assert {"ConsistencyTrajectory.Params.rho", "MixtureParams.stds", "Recipe.P_std"} <= names
    assert len(names) > 60


class Endless(Params):
    """A parameter that may be infinite, and says so; one that may be a switch or a number."""

    most: float = Field(default=1.0, allow_inf_nan=True)
    either: bool | float = False


def test_a_parameter_may_say_that_it_is_infinite(monkeypatch):
    """And spec.json holds it as JSON can."""

    class Mine(Preconditioning):
        Params = Endless

    monkeypatch.setitem(registry._classes["precond"], "mine", Mine)
    made = plugin_spec("precond", PluginRef(name="mine", params={"most": math.inf, "either": True}))
    assert made.params == {"most": "inf", "either": True}
    assert make_params("precond", "mine", made.params) == Endless(most=math.inf, either=True)


@pytest.mark.parametrize(
    "text",
    ["010", "00", "-017", "+07", "0_7", "089", "1:30", "190:20:30", "1:30.5", "[1, 010]"],
)
def test_numbers_of_another_base_are_refused(text):
    for written in (text, f"a: {text}", f"a: {{b: [x, {text}]}}"):
        with pytest.raises(yaml.YAMLError, match="base 8 or 60; write it in base 10"):
            parse(written)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("0", 0), ("10", 10), ("1_000", 1000), ("0x10", 16), ("0.5", 0.5), ("'010'", "010")],
        *[("-0.01", -0.01), ("00000/img.png", "00000/img.png"), ("2:x", "2:x"), ("0e1", "0e1")],
    ],
)
def test_other_numbers_and_text_are_as_ever(text, value):
    assert parse(text) == value


BAD = {
    "objective: rho": ("axes.objective=[{ctm: {rho: .inf}}]", "rho: must be a finite number"),
    "dsm weight": ("axes.objective=[{ctm: {dsm_weight: .inf}}]", "dsm_weight: must be a finite"),
    "learning rate": ("train.lr=.inf", "train.lr: must be a finite number, got inf"),
    "timeout": ("launch.timeout=.nan", "launch.timeout: must be a finite number, got nan"),
    "target": ("report.targets={frechet: [.inf]}", "report.targets.frechet.0: must be a finite"),
    "seeds": ("axes.seed=[no, on]", "axes.seed: must be a number, got false (YAML reads yes, no"),
    "batch": ("train.batch=yes", "train.batch: must be a number, got true"),
    "nfe": ("evaluate.nfe=[yes]", "evaluate.nfe: must be a number, got true"),
    "octal": ("train.batch=010", "010: YAML reads such numbers in base 8 or 60"),
    "octal in a plugin": ("axes.teacher=['gmm: {modes: 010}']", "write NAME or"),
    "teacher's range": (
        "axes.teacher=[{gmm: {sigma_max: 0.001}}]",
        "teacher 'gmm': need 0 < sigma_min < sigma_max, got 0.002 and 0.001",
    ),
    "one point": ("axes.teacher=[{gmm: {sigma_max: 0.002}}]", "need 0 < sigma_min < sigma_max"),
    "empirical": (
        "axes.teacher=[{empirical: {dataset: {name: digits}, sigma_max: 0.001}}]",
        "teacher 'empirical': need 0 < sigma_min < sigma_max",
    ),
    "network": ("axes.teacher=[{unet: {sigma_max: 0.001}}]", "leaves nothing of the network's"),
    "infinite sigma": ("axes.teacher=[{gmm: {sigma_max: .inf}}]", "sigma_max: must be a finite"),
    "infinite std": ("axes.teacher=[{gmm: {std: .inf}}]", "std: must be a finite number"),
    "huge std": ("axes.teacher=[{gmm: {std: 1.0e+200}}]", "its parameters do not go together"),
    "huge radius": ("axes.teacher=[{gmm: {radius: 1.0e+200}}]", "do not go together"),
    "no deviation": ("axes.teacher=[{gmm: {std: 1.0e-200, radius: 1.0e-200}}]", "sigma_data) is 0"),
    "preconditioning's range": (
        "axes.precond=[ctm, narrow]",
        "narrow: reach 1 is below sigma_min 0.002",
    ),
    "long name": (f"axes.precond=[ctm, {'x' * 300}]", "letters long, more than 240; give its"),
}


class Narrow(Preconditioning):
    """Refuses every noise range."""

    name = "narrow"

    def __init__(self, params=None, **sigma):
        super().__init__(params, **sigma)
        raise ConfigError(f"narrow: reach 1 is below sigma_min {self.sigma_min}")


@pytest.mark.parametrize("case", BAD)
def test_grids_are_refused_before_anything_starts(grid, harness, tmp_path, monkeypatch, case):
    monkeypatch.setitem(registry._classes["precond"], "narrow", Narrow)
    monkeypatch.setitem(registry._classes["precond"], "x" * 300, type("X", (Preconditioning,), {}))
    setting, message = BAD[case]
    for verb in ("plan", "run"):
        code, _, err = harness(verb, "--matrix", grid, "--set", setting)
        assert code == 2, err
        assert message in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_target_of_reports_is_finite(harness, tmp_path):
    store = write_results(tmp_path / "r", [spec("ctm")])
    assert harness("report", store.root, "--target", "frechet=1")[0] == 0
    for value in ("inf", "nan"):
        code, _, err = harness("report", store.root, "--target", f"frechet={value}")
        assert code == 2
        assert f"--target frechet={value}: give METRIC=VALUE" in err


@pytest.mark.parametrize("rho", [1e-300, 1e-3, 0.5, 1, 7, 99.9, 100.1, 1e4, 1e8, 1e15, math.inf])
def test_karras_is_exact_for_every_rho(rho):
    """Against rational arithmetic of 60 digits; geometric in the limit."""
    from decimal import Decimal, localcontext

    found = karras(5, rho=rho).tolist()
    with localcontext() as context:
        context.prec = 60
        ends = Decimal(karras(2)[0].item()), Decimal(karras(2)[1].item())
        high, low = (end.ln() for end in ends)
        for k, level in enumerate(found):
            part = Decimal(k) / 4
            if k in (0, 4):
                exact = ends[k // 4]
            elif math.isinf(rho):
                exact = (high + part * (low - high)).exp()
            else:
                r = Decimal(rho)
                ratio = ((low - high) / r).exp()
                exact = Decimal(80) * (r * (1 + part * (ratio - 1)).ln()).exp()
            assert abs(Decimal(level) / exact - 1) < Decimal("1e-12"), (k, level, exact)
    assert torch.equal(karras(5, rho=rho).sort(descending=True)[0], karras(5, rho=rho))


def test_models_are_strict_wherever_they_are():
    """Whoever writes another base of settings leaves the rule behind."""
    for model in (*models_below(Grid), *models_below(TeacherConfig)):
        assert issubclass(model, Settings)
        assert issubclass(model, BaseModel)


def test_a_run_id_fits_into_a_file_name(tmp_path, monkeypatch):
    monkeypatch.setitem(
        registry._classes["precond"], "y" * 200, type("Y", (Preconditioning,), {"name": "y" * 200})
    )
    path = tmp_path / "grid.yaml"
    path.write_text(TINY.replace("analytic", "y" * 200))
    specs = expand(load_grid(path)).specs
    assert all(isinstance(each, RunSpec) for each in specs)
    assert max(len(each.run_id) for each in specs) == 222
    (tmp_path / specs[-1].run_id).mkdir()
