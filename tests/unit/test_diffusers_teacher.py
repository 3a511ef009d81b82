"""The `diffusers` teacher on tiny pipelines made here, against diffusers' own conventions."""

import json

import pytest
import torch

from harness.api import create_teacher, edm_inner, load_student
from harness.errors import ConfigError
from harness.export.student import Student as Alone
from tests.unit.edm_layout import randomise
from tests.unit.image_files import layout, write_zip
from tests.unit.test_export import drawn
from tests.unit.untrained import untrained_run

diffusers = pytest.importorskip("diffusers")


def save(folder, prediction="epsilon", classes=None, **schedule):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )
    randomise(unet)
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, **schedule)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    scheduler.save_pretrained(folder / "scheduler")
    return unet.eval(), scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_denoises_as_the_pipeline_does(tmp_path, prediction, schedule):
    unet, scheduler = save(tmp_path, prediction, beta_schedule=schedule)
    teacher = create_teacher("diffusers", folder=str(tmp_path), sigma_max=1e9, sigma_min=1e-9)
    abar = scheduler.alphas_cumprod.double()
    known = ((1 - abar) / abar).sqrt()
    k = torch.tensor([0, 1, 300, 700, 990])
    assert torch.allclose(torch.tensor(teacher.levels)[k].double(), known[k], rtol=2e-3)
    sigma = torch.tensor([teacher.levels[i] for i in k], dtype=torch.float64)
    scaled = torch.randn(5, 3, 8, 8)
    root = (1 + sigma**2).sqrt()[:, None, None, None].float()
    with torch.no_grad():
        raw = unet(scaled, k).sample
        D = teacher.denoise(scaled * root, sigma)
    for i, level in enumerate(sigma.float()):
        alpha, beta = 1 / (1 + level**2).sqrt(), level / (1 + level**2).sqrt()
        if prediction == "epsilon":
            expected = (scaled[i] - beta * raw[i]) / alpha
        else:
            expected = alpha * scaled[i] - beta * raw[i]
        scale = max(1, float(expected.abs().max()))
        assert float((D[i] - expected).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_student_starts_as_its_teacher(tmp_path, prediction):
    save(tmp_path, prediction, classes=4)
    teacher = create_teacher("diffusers", folder=str(tmp_path))
    assert (teacher.spec.classes, teacher.spec.shape) == (4, (3, 8, 8))
    assert teacher.spec.sigma_min == pytest.approx(0.01, rel=1e-3)  # sqrt(beta_start)
    student = teacher.network().eval()
    t = torch.tensor([0.02, 0.3, 2.0, 60.0], dtype=torch.float64)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64) * t[:, None, None, None]
    labels = torch.eye(4)
    with torch.no_grad():
        raw = student(x.float(), t, None, labels)
        assert torch.equal(student(x.float(), t, t / 3, labels), raw)
        c_skip, c_out = (c[:, None, None, None].float() for c in edm_inner(t, 0.5))
        D = teacher.denoise(x.float(), t, labels)
        error = (c_skip * x.float() + c_out * raw - D).abs().flatten(1).amax(1)
        assert (error < 1e-5 * D.abs().flatten(1).amax(1).clamp_min(1)).all()
        assert not torch.allclose(teacher.denoise(x.float(), t, labels.roll(1, 0)), D)
    student.net.map_s.linear_2.weight.data.normal_()
    assert not torch.allclose(student(x.float(), t, t / 3, labels), raw)
    student(x.float(), t, t / 3, labels).sum().backward()
    assert float(student.net.map_s.linear_1.weight.grad.abs().max()) > 0
    assert student.last_layer is student.net.unet.conv_out.weight
    student.reset_parameters(seed=1)
    with torch.no_grad():
        assert torch.equal(
            student(x.float(), t, t / 3, labels), student(x.float(), t, None, labels)
        )


def test_forward_mode_derivative(tmp_path):
    save(tmp_path)
    teacher = create_teacher("diffusers", folder=str(tmp_path))
    teacher.backbone.double().dtype = torch.float64
    x, t = torch.randn(1, 3, 8, 8).double(), torch.tensor([1.37]).double()
    _, slope = torch.func.jvp(lambda v: teacher.denoise(x, v), (t,), (torch.ones_like(t),))
    rise = (teacher.denoise(x, t + 1e-3) - teacher.denoise(x, t - 1e-3)) / 2e-3
    assert torch.allclose(slope, rise, rtol=0.05, atol=0.05 * float(rise.abs().max()))


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_refusals(tmp_path):
    def refused(words):
        with pytest.raises(ConfigError, match=words) as caught:
            create_teacher("diffusers", folder=str(tmp_path)).backbone  # noqa: B018
        assert "\n" not in str(caught.value)

    refused("no such file; expected is what")
    unet, scheduler = "unet/config.json", "scheduler/scheduler_config.json"
    for name, change, words in [
        (scheduler, {"prediction_type": "sample"}, "prediction_type 'sample'"),
        (scheduler, {"_class_name": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler"),
        (scheduler, {"rescale_betas_zero_snr": True}, "infinite"),
        (scheduler, {"beta_schedule": "other"}, "'other' is unknown"),
        (scheduler, {"beta_end": 3}, "between 0 and 1"),
        (unet, {"_class_name": "UNet2DConditionModel"}, "not UNet2DModel"),
        (unet, {"sample_size": [8, 6]}, "no square sample_size"),
        (unet, {"time_embedding_type": "fourier"}, "positional"),
        (unet, {"block_out_channels": [8, 8]}, "cannot be loaded|not those of the network"),
        (unet, {"add_attention": False}, "not those of the network|cannot be loaded"),
    ]:
        save(tmp_path)
        edited(tmp_path, name, **change)
        refused(words)
    save(tmp_path)
    weights = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("cannot be loaded")
    weights.rename(weights.with_suffix(".bin"))
    refused("no such file")


@pytest.mark.parametrize(("prediction", "classes"), [("epsilon", None), ("v_prediction", 4)])
def test_a_student_is_exported_as_a_pipeline(tmp_path, harness, prediction, classes):
    """Loaded by diffusers, its samples are those of the run's own jumps."""
    save(tmp_path / "teacher", prediction, classes)
    images = write_zip(tmp_path / "images.zip", layout(10, classes=classes or 2, size=8))
    dataset = {"zip": {"path": str(images), "labels": bool(classes)}}
    teacher = {"diffusers": {"folder": str(tmp_path / "teacher")}}
    run, out = untrained_run(tmp_path / "r", teacher, dataset, random=True), tmp_path / "out"
    code, _, err = harness("export", run, "--out", out)
    assert code == 0, err
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(out), custom_pipeline=str(out), trust_remote_code=True
    )
    assert isinstance(pipe.unet, diffusers.UNet2DModel)
    x = pipe(batch_size=4, num_inference_steps=2, seed=3, output_type="pt").images
    assert torch.allclose(x, drawn(load_student(run), "exact", nfe=2, seed=3), atol=2e-4)
    labels = [1, 0, 1, 1] if classes else None
    assert pipe(batch_size=4, class_labels=labels).images[0].size == (8, 8)
    with pytest.raises(ValueError, match="load this folder by its pipeline"):
        Alone.load(out)
    assert "custom_pipeline" in (out / "README.md").read_text()
