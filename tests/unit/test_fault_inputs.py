"""Plugins and grids on which the software once failed: what `check` and `plan` say of them."""

import sys
from pathlib import Path

import pytest

from harness.api import create_precond
from harness.contract import check_precond
from harness.errors import ConfigError
from harness.registry import registry

FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


@pytest.fixture
def own_plugins(monkeypatch):
    """What a test registers is forgotten after it."""
    registry.names("precond")
    monkeypatch.setitem(registry._classes, "precond", dict(registry._classes["precond"]))
    for name in ("tensors", "cell_text"):
        monkeypatch.delitem(sys.modules, f"harness_plugin_{name}", raising=False)


def findings(name):
    registry.load_file(FAULTS / "tensors.py")
    return {f.check: f for f in check_precond(create_precond(name, sigma_data=0.5))}


@pytest.mark.parametrize(
    ("name", "check", "detail"),
    [
        ("bf16coef", "dtype", "alpha of `outer` is torch.bfloat16, not float64"),
        ("f32coef", "dtype", "alpha of `outer` is torch.float32, not float64"),
        ("nanlate", "finite", "skip is nan at t=80, s=0.002"),
        ("swapped", "boundary", "not exact at s = t"),
        ("badshape", "broadcast", "skip has shape"),
    ],
)
def test_check_names_the_fault(own_plugins, name, check, detail):
    found = findings(name)
    assert not found[check].ok
    assert found[check].detail.startswith(detail)
    assert found["deterministic"].ok


def test_low_precision_is_not_trained(own_plugins):
    from harness.contract import refuse_broken

    registry.load_file(FAULTS / "tensors.py")
    with pytest.raises(ConfigError, match="breaks its contract \\(dtype: alpha of `outer` is"):
        refuse_broken(create_precond("f32coef", sigma_data=0.5))
    refuse_broken(create_precond("noncontig", sigma_data=0.5))


def test_text_parameters_are_a_line_each_in_plan(own_plugins, harness, tmp_path):
    flags = ["--plugin", FAULTS / "cell_text.py", "--set", f"results={tmp_path}"]
    code, out, err = harness("plan", "--matrix", FAULTS / "cell-text.yaml", *flags)
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith(("tagged", "ctm"))]
    assert len(rows) == 5
    assert r"tagged(tag=l1\nl2 $x_1$ % & # \u202e猫)" in out
    axes = f"axes.precond=[{'x' * 300}]"
    code, _, err = harness(
        "plan",
        "--matrix",
        FAULTS / "cell-text.yaml",
        *flags,
        "--set",
        axes,
        "--set",
        f"report.baseline={'x' * 300}",
    )
    assert code == 2
    assert "letters long, more than 240" in err


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("sigma-range", "teacher 'gmm': need 0 < sigma_min < sigma_max, got 0.002 and 0.001"),
        ("rho-inf", "objective 'ctm': rho: must be a finite number, got inf"),
    ],
)
def test_grids_are_refused_before_anything_starts(harness, tmp_path, grid, told):
    for verb in ("plan", "run"):
        flags = ["--set", f"results={tmp_path / 'r'}"]
        code, _, err = harness(verb, "--matrix", FAULTS / f"{grid}.yaml", *flags)
        assert (code, err) == (2, f"error: {told}\n")
    assert not (tmp_path / "r").exists()
