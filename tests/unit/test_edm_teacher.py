"""The `edm` teacher against outputs recorded from EDM's own code, and what it says to users."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import create_teacher, list_teachers
from harness.errors import ConfigError
from teachers.edm_format.checkpoint import BASE_URL
from teachers.edm_format.convert import convert
from tests.unit import edm_layout
from tests.unit.test_edm_reader import FIXTURES, NAMES, tiny

CASES = [(name, case) for name in NAMES for case in ("0", "1", "2")]
CASES += [(NAMES[0], "aug"), (NAMES[1], "nolabel")]
TEACHERS = {}


def teacher(name: str):
    """The fixture's teacher, made once."""
    if name not in TEACHERS:
        TEACHERS[name] = create_teacher("edm", weights=str(FIXTURES / f"{name}.pkl"))
    return TEACHERS[name]


def recorded(name: str, case: str) -> dict[str, torch.Tensor | None]:
    """Inputs and outputs of one recorded evaluation."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        keys = {key: f"{key}_{case}" for key in ("x", "sigma", "D", "model_out", "model_noise")}
        found = {key: torch.from_numpy(file[name]) for key, name in keys.items()}
        labels = "class_labels" in file and case != "nolabel"
        found["labels"] = torch.from_numpy(file["class_labels"]) if labels else None
        augmented = f"augment_labels_{case}"
        found["augment"] = torch.from_numpy(file[augmented]) if augmented in file else None
    return found


@pytest.mark.parametrize(("name", "case"), CASES)
def test_matches_edms_own_outputs(name, case):
    r = recorded(name, case)
    with torch.no_grad():
        D = teacher(name).denoise(r["x"], r["sigma"], r["labels"], r["augment"])
        F = teacher(name).backbone(r["x"], r["sigma"], None, r["labels"], r["augment"])
    for found, expected in ((D, r["D"]), (F, r["model_out"])):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    noise = teacher(name).backbone.inner.c_noise(r["sigma"].double()).float()
    torch.testing.assert_close(noise, r["model_noise"], rtol=1e-6, atol=1e-7)


def test_spec():
    spec = teacher(NAMES[0]).spec
    assert (spec.shape, spec.sigma_data, spec.classes) == ((3, 32, 32), 0.5, 0)
    assert (spec.sigma_min, spec.sigma_max) == (0.002, 80.0)
    assert len(spec.digest) == 64
    assert teacher(NAMES[1]).spec.classes == 1000
    assert "edm" in list_teachers()


def test_the_range_is_cut_to_the_networks(tmp_path):
    path = tmp_path / "ve.pkl"
    edm_layout.write(path, tiny("VEPrecond"))
    spec = create_teacher("edm", weights=str(path), sigma_max=200.0).spec
    assert (spec.sigma_min, spec.sigma_max) == (0.02, 100.0)
    with pytest.raises(ConfigError, match="leaves nothing"):
        create_teacher("edm", weights=str(path), sigma_max=0.01)


def test_scalar_sigma_and_double_input():
    made, r = teacher(NAMES[0]), recorded(NAMES[0], "0")
    with torch.no_grad():
        one = made.denoise(r["x"].double(), torch.tensor(0.5, dtype=torch.float64))
        per_sample = made.denoise(r["x"].double(), torch.full((2,), 0.5, dtype=torch.float64))
    assert one.dtype == torch.float64
    assert torch.equal(one, per_sample)


def test_a_fresh_student_is_the_teacher():
    made, r = teacher(NAMES[1]), recorded(NAMES[1], "1")
    student, other = made.network(), made.network()
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    for key, value in student.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    s = torch.tensor([0.1, 0.2], dtype=torch.float64)
    with torch.no_grad():
        expected = made.backbone(r["x"], r["sigma"], None, r["labels"])
        found = student.eval()(r["x"], r["sigma"], s, r["labels"])
        assert torch.equal(found, expected)
        student.last_layer.add_(1)
        assert torch.equal(made.backbone(r["x"], r["sigma"], None, r["labels"]), expected)
    assert not any("_s." in key for key in made.backbone.state_dict())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision(precision):
    path, r = str(FIXTURES / f"{NAMES[0]}.pkl"), recorded(NAMES[0], "0")
    made = create_teacher("edm", weights=path, precision=precision)
    with torch.no_grad():
        D = made.denoise(r["x"], r["sigma"])
    assert D.dtype == torch.float32
    assert 0 < (D - r["D"]).norm() / r["D"].norm() < 2e-2
    assert made.network().dtype == torch.float32
    assert made.spec.digest != create_teacher("edm", weights=path).spec.digest  # its own artifacts


def test_converted_teacher_is_the_same(tmp_path):
    out = convert(FIXTURES / f"{NAMES[0]}.pkl", tmp_path / "teacher.safetensors")
    made, r = create_teacher("edm", weights=str(out)), recorded(NAMES[0], "aug")
    with torch.no_grad():
        found = made.denoise(r["x"], r["sigma"], None, r["augment"])
        assert torch.equal(found, teacher(NAMES[0]).denoise(r["x"], r["sigma"], None, r["augment"]))


def test_missing_files_say_where_to_get_them(tmp_path):
    wanted = tmp_path / "edm-cifar10-32x32-cond-vp.pkl"
    with pytest.raises(ConfigError) as caught:
        create_teacher("edm", weights=str(wanted))
    assert str(wanted) in str(caught.value)
    assert BASE_URL + wanted.name in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        create_teacher("edm", weights=str(tmp_path / "baseline-cifar10-32x32-uncond-vp.pkl"))
    assert f"{BASE_URL}baseline/baseline-cifar10" in str(caught.value)
    with pytest.raises(ConfigError, match="edm-imagenet-64x64-cond-adm"):
        create_teacher("edm", weights=str(tmp_path / "my.pkl"))
    with pytest.raises(ConfigError, match="is a folder"):
        create_teacher("edm", weights=str(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="ending in"):
        create_teacher("edm", weights=str(tmp_path / "w.pt"))
    with pytest.raises(ConfigError, match="weights"):
        create_teacher("edm")


def test_wrong_labels_are_refused():
    with pytest.raises(ConfigError, match="1000 classes"):
        teacher(NAMES[1]).denoise(torch.zeros(2, 3, 64, 64), torch.tensor(1.0), torch.eye(10)[:2])


def test_unknown_arguments_warn(tmp_path):
    path = Path(tmp_path / "file.pkl")
    edm_layout.write(path, tiny(more={"flavour": "sweet"}))
    with pytest.warns(UserWarning, match="flavour"):
        create_teacher("edm", weights=str(path))
