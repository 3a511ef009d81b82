"""Published students and our own: outputs of the reference codes, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness.api import ConfigError, StudentLike, create_teacher, list_students, load_student
from harness.core.sampling import exact, initial_noise
from harness.core.schedule import karras
from tests.unit.test_openai_teacher import PUBLISHED, saved, weights

OPENAI = {"resolution": 16, "head_channels": 16}
ROOT = Path(__file__).parents[2]
ECT = (PUBLISHED / "ect.pkl").read_bytes()


def stored(name: str) -> dict[str, torch.Tensor]:
    with np.load(PUBLISHED / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def close(found: torch.Tensor, expected: torch.Tensor, within: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < within * expected.abs().max().clamp_min(1)


# -- outputs -----------------------------------------------------------------------------------


def test_ctm_of_cifar10s_layout():
    student, r = load_student(PUBLISHED / "ctm_small.pt"), stored("ctm_small")
    spec = student.spec
    assert (spec.format, spec.ends, spec.classes, spec.shape) == ("ctm", "any", 10, (3, 16, 16))
    with torch.no_grad():
        for k, sigma in enumerate(r["sigmas"]):
            x = r["x0"] + sigma.float() * r["eps"]
            close(student.jump(x, sigma, 0.002, r["y"]), r["out"][k])


@pytest.mark.parametrize(
    ("file", "name", "outer"),
    [
        ("ctm_network", "euler", "euler"),
        ("ctm_network_other_outer", "variance", "variance"),
        ("ctm_network_other_outer", "euler_variance_mixed", "mixed"),
    ],
)
def test_ctm_of_every_outer_form(file, name, outer):
    student, r = load_student(PUBLISHED / "ctm_small.pt", outer=outer), stored(file)
    with torch.no_grad():
        for k, (t, s) in enumerate(r["pairs"]):
            x = r["x0"] + t.float() * r["eps"]
            close(student.jump(x, t, s, torch.eye(10)[r["y"]]), r[f"G_{name}_labels"][k])
            close(student.jump(x, t, s), r[f"G_{name}_nolabels"][k])
        for k, t in enumerate(r["denoiser_t"]):
            x, expected = r["x0"] + t.float() * r["eps"], r[f"denoiser_{name}"][k]
            # in float32 the terms of the mixed form in x cancel at t = 80, in theirs and in ours
            close(student.denoise(x, t, r["y"]), expected, 1e-4 if outer == "mixed" else 1e-5)


def test_ctm_of_imagenets_layout():
    """Recorded from sony/ctm's own UNetModel, random weights."""
    student = load_student(PUBLISHED / "ctm_imagenet_small.pt", **OPENAI)
    r = stored("ctm_imagenet_small")
    assert (student.spec.format, student.spec.classes) == ("ctm", 10)
    with torch.no_grad():
        for k, (t, s) in enumerate(r["pairs"]):
            x = r["x0"] + t.float() * r["eps"]
            close(student.jump(x, t, s, r["y"]), r["G_euler"][k])


def test_ect():
    student, r = load_student(PUBLISHED / "ect.pkl"), stored("ect")
    assert (student.spec.format, student.spec.sigma_min) == ("ect", 0.003)
    with torch.no_grad():
        for k, sigma in enumerate(r["sigmas"]):
            x = r["x0"] + sigma.float() * r["eps"]
            close(student.jump(x, sigma, 0.003), r["out"][k])
            close(student.denoise(x, sigma), r["out"][k])


@pytest.mark.parametrize("name", [b"CMPrecond", b"CTPrecond", b"iCTPrecond", b"EDMPrecond"])
def test_snapshots_of_others_in_the_same_layout(tmp_path, name):
    path, r = tmp_path / "other.pkl", stored("ect")
    path.write_bytes(ECT.replace(b"\x8c\x0aECMPrecond", b"\x8c" + bytes([len(name)]) + name))
    if name == b"EDMPrecond":  # a teacher's class: by name alone
        assert "no format" in refused(path)
    params = {"format": "ect", "sigma_min": 0.003} if name == b"EDMPrecond" else {}
    student = load_student(path, **params)
    with torch.no_grad():
        close(student.jump(80 * r["eps"] + r["x0"], 80, 0.003), r["out"][4])


def test_a_consistency_model_is_its_network_with_the_boundary_at_sigma_min(tmp_path):
    # CD's files have the layout of the teacher that they start from
    path = saved(tmp_path / "cd_small.pt", weights())
    student = load_student(path, resolution=16, head_channels=32)
    teacher = create_teacher("openai", weights=str(path), resolution=16, head_channels=32)
    assert (student.spec.format, student.spec.ends) == ("cm", "sigma_min")
    x, labels, sd, low = torch.randn(2, 3, 16, 16), torch.eye(10)[:2], 0.5, 0.002
    with torch.no_grad():
        for t in (0.002, 0.3, 80.0):
            # F of the denoiser, put into c_skip(t - sigma_min) x + c_out F (Song et al. 2023)
            noise = torch.tensor([t, t]).double()
            raw = teacher.backbone(t * x, noise, None, labels)
            skip = sd**2 / ((t - low) ** 2 + sd**2)
            out = sd * (t - low) / (t**2 + sd**2) ** 0.5
            close(student.jump(t * x, t, low, labels), skip * t * x + out * raw, 1e-6)
        assert torch.equal(student.jump(x, low, low, labels), x)


def test_students_are_what_samplers_take():
    student: StudentLike = load_student(PUBLISHED / "ctm_small.pt")
    x = initial_noise(0, torch.arange(3), (3, 16, 16), 80.0, torch.float32)
    times = karras(3, 0.002, 80.0)
    with torch.no_grad():
        middle, end = exact(student, x, times, torch.eye(10)[:3])
        assert torch.equal(student.jump(middle, times[1], 0.002, torch.eye(10)[:3]), end)


def test_samples_are_functions_of_seed_and_index():
    student = load_student(PUBLISHED / "ctm_small.pt")
    some = student.sample(4, nfe=2, seed=1, sampler="gamma0.5")
    later = student.sample(2, nfe=2, seed=1, sampler="gamma0.5", first=2)
    close(later, some[2:])
    assert not torch.allclose(some, student.sample(4, nfe=2, seed=2, sampler="gamma0.5"))
    fixed = student.sample(2, labels=torch.tensor([3, 3]))
    assert fixed.shape == (2, 3, 16, 16)
    with pytest.raises(ConfigError, match="use stochastic"):
        load_student(PUBLISHED / "ect.pkl").sample(1, nfe=2, sampler="exact")


# -- our own -----------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path, harness):
    """A results folder with one run of the shipped teacher, two budgets, weights kept."""
    grid = tmp_path / "grid.yaml"
    text = {
        "version": 1,
        "name": "own",
        "axes": {"precond": ["ctm"], "teacher": ["unet"], "objective": [{"ctm": {"steps": 1}}]},
        "train": {"batch": 4, "log_every": 1},
        "student": {"s_branch": "per_block", "s_init": "reference"},
        "budgets": [1, 2],
        "evaluate": {"nfe": [1], "samples": 4, "metrics": ["alignment"], "ode_steps": 16},
        "launch": {"device": "cpu", "threads": 1},
        "results": str(tmp_path / "results"),
    }
    grid.write_text(yaml.safe_dump(text))
    code, out, err = harness("run", "--matrix", grid)
    assert code == 0, out + err
    (run,) = (tmp_path / "results/runs").iterdir()
    return run


def test_a_run_loads_as_it_was_evaluated(trained):
    student = load_student(trained)
    assert student.spec.facts == {"run_id": trained.name, "step": 2, "images": 8}
    assert (student.spec.format, student.spec.ends) == ("run", "any")
    from safetensors.torch import load_file

    kept = load_file(trained / "ema" / "step-00000002.safetensors")
    for key, value in student.student.backbone.state_dict().items():
        assert torch.equal(value, kept[key])
    x, t = torch.randn(2, *student.spec.shape), torch.tensor([5.0, 0.3]).double()
    with torch.no_grad():
        late, early = student.jump(x, t, t / 9), load_student(trained, step=1).jump(x, t, t / 9)
        assert not torch.equal(late, early)
        file = load_student(trained / "ema" / "step-00000001.safetensors")
        assert torch.equal(file.jump(x, t, t / 9), early)
    with pytest.raises(ConfigError, match="none of step 7"):
        load_student(trained, step=7)


def test_a_published_run_keeps_no_weights():
    run = next((ROOT / "results" / "quickstart" / "runs").iterdir())
    with pytest.raises(ConfigError, match="published runs keep none"):
        load_student(run)


# -- refusals ----------------------------------------------------------------------------------


def refused(*arguments, **params) -> str:
    with pytest.raises(ConfigError) as caught:
        load_student(*arguments, **params)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "nvidia" not in sentence.lower()
    return sentence


def test_a_consistency_model_is_not_asked_for_other_ends(tmp_path):
    for student in (
        load_student(PUBLISHED / "ect.pkl"),
        load_student(saved(tmp_path / "cd.pt", weights()), resolution=16, head_channels=32),
    ):
        with pytest.raises(ConfigError, match=r"jumps to sigma_min = .* alone, not to 2\.5"):
            student.jump(torch.zeros(2, 3, 16, 16), 80.0, 2.5)


def test_samples_and_classes_must_fit():
    student = load_student(PUBLISHED / "ctm_small.pt")
    x = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ConfigError, match=r"\[3, 32, 32\] do not fit its \[3, 16, 16\]"):
        student.jump(torch.zeros(2, 3, 32, 32), 80.0, 2.5)
    for labels in (torch.tensor([3, 10]), torch.eye(9)[:2]):
        with pytest.raises(ConfigError, match="its 10 classes"):
            student.jump(x, 80.0, 2.5, labels)


def test_what_a_file_is_not_is_said(tmp_path):
    assert "no such file" in refused(tmp_path / "nothing.pt")
    assert "no format that students are known in (cm, ctm, ect, run)" in refused(ROOT / "docs")
    text = tmp_path / "x.txt"
    text.write_text("x")
    assert "no format" in refused(text)
    assert "did you mean 'ctm'" in refused(PUBLISHED / "ctm_small.pt", format="ctmm")
    assert "use format ctm" in refused(PUBLISHED / "ctm_small.pt", format="cm")
    assert "is of format cm" in refused(PUBLISHED / "openai_lsun_small.pt", "ctm", **OPENAI)
    assert "says that it is a teacher" in refused(PUBLISHED / "edm_small_ema.pt")
    assert "unknown parameter" in refused(PUBLISHED / "ctm_small.pt", forms="euler")
    assert "optimizer's state" in refused(
        saved(tmp_path / "opt.pt", {"state": {}, "param_groups": []})
    )
    with pytest.raises(ConfigError, match=r"is a student \(ECMPrecond\).*load_student"):
        create_teacher("edm", weights=str(PUBLISHED / "ect.pkl"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "read without it"),
        (lambda w: {k: v.half() for k, v in w.items()}, "weights are float16"),
    ],
)
def test_what_can_be_read_all_the_same_is_said(tmp_path, change, says):
    path = saved(tmp_path / "w.pt", change(weights("ctm_small.pt")))
    with pytest.warns(UserWarning, match=says):
        student = load_student(path)
    r = stored("ctm_small")
    with torch.no_grad():
        close(student.jump(80 * r["eps"], 80, 0.002, r["y"]), r["out"][4], 0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {k: v for k, v in w.items() if "16x16_block1.affine_s" not in k}, "lacks"),
        (lambda w: {k: v for k, v in w.items() if "_conv." not in k}, "no tensor"),
        (lambda w: {**w, "model.enc.x": torch.zeros(2)}, "unexpected tensor"),
        (lambda w: {**w, "model.map_layer0_s.weight": torch.zeros(64, 17)}, "instead of"),
        (lambda w: {**w, "model.map_layer0.weight": torch.zeros(64, 0)}, "family"),
        (lambda w: {**w, "model.map_layer0.weight": torch.zeros(64)}, "family"),
    ],
)
def test_networks_that_are_not_whole_are_refused(tmp_path, change, says):
    assert says in refused(saved(tmp_path / "w.pt", change(weights("ctm_small.pt"))))


def test_recognising_imports_no_torch():
    code = (
        "import sys; from pathlib import Path; from harness.registry import registry\n"
        f"found = [n for n in registry.names('student') if registry.get('student', n).recognises("
        f"Path({str(PUBLISHED / 'ctm_small.pt')!r}))]\n"
        "assert found == ['ctm'], found; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert list_students() == ["cm", "ctm", "ect", "run"]
