"""A teacher trained here: the loss falls, resuming changes no bit, the file works."""

import json

import numpy as np
import pytest
import torch
import yaml

from harness.api import ConfigError, create, create_teacher
from teachers.training.config import load_config
from teachers.training.samples import main
from teachers.training.train import train_teacher
from teachers.unet import SHIPPED

#: sha256 of teachers/weights/NAME.safetensors; the command that made it is in its configuration
SHIPPED_DIGITS = "2c6eb259c2a45ce77114bf3075f890314368ebacd85f0cc379ef83d3beebe1f7"
SHIPPED_PHOTOS16 = "c443a1c077d0aaea61042123440bd941f850a5cce35c6c8f15d9c842c7f70371"

CONFIG = {
    "network": {
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.1,
    },
    "dataset": {"name": "digits"},
    "train": {"images": 384, "batch": 16, "lr": 2e-3, "warmup_images": 0, "checkpoint_every": 8},
}


def config(tmp_path, **train):
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "train": {**CONFIG["train"], **train}}))
    return load_config(path)


def test_training_resumes_to_the_same_bits(tmp_path):
    whole = train_teacher(config(tmp_path), tmp_path / "whole.safetensors")
    # stopped after 16 of 24 steps, then continued with the same recipe
    train_teacher(config(tmp_path, images=256), tmp_path / "parts.safetensors")
    parts = train_teacher(config(tmp_path), tmp_path / "parts.safetensors")
    assert whole.read_bytes() == parts.read_bytes()
    lines = (tmp_path / "whole.training" / "train.jsonl").read_text().splitlines()
    losses = [yaml.safe_load(line)["loss"] for line in lines]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_trained_teacher_knows_its_data_and_starts_students(tmp_path):
    out = train_teacher(config(tmp_path, images=32), tmp_path / "t.safetensors")
    teacher = create_teacher("unet", weights=str(out))
    assert teacher.spec.shape == (1, 8, 8)
    assert teacher.dataset().spec.digest == create("dataset", "digits").spec.digest
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.01, 1.0, 60.0], dtype=torch.float64)
    network = teacher.network().eval()
    with torch.no_grad():
        for s in (t, t / 3):
            assert torch.equal(network.denoise(x, t), teacher.denoise(x, t))
            assert torch.equal(network(x, t, s), teacher.backbone(x, t))


def changed(path, out, change):
    """A copy of a teacher's file whose description of its network `change` has edited."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["precondbench.edm"])
    change(described)
    save_file(load_file(path), out, {"precondbench.edm": json.dumps(described)})
    return str(out)


def test_what_cannot_be_used_is_told_of_the_teacher_that_was_asked_for(tmp_path):
    """Its own name, and a mend for a file that was trained here: nobody publishes it."""
    path = tmp_path / "bad.safetensors"
    again = "make it again with `python -m harness teacher train`"
    for change, told in (
        (lambda it: it["config"]["model"].update(model_channels=26), "a network that cannot be"),
        (lambda it: it["config"]["model"].update(model_channels=28), "not hold the network it"),
    ):
        teacher = create_teacher(
            "unet", weights=changed(SHIPPED / "digits.safetensors", path, change)
        )
        with pytest.raises(ConfigError, match=told) as caught:
            teacher.network()
        assert str(caught.value).startswith(f"teacher 'unet': {path}: ")
        assert str(caught.value).endswith(again)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=f"^teacher 'unet': {path}: is damaged.* teacher train"):
        create_teacher("unet", weights=str(path))
    with pytest.raises(
        ConfigError, match=r"^teacher 'unet': .*no such file.*train.*\(digits, photos16\)$"
    ):
        create_teacher("unet", weights="digit")
    with pytest.raises(ConfigError, match=r"^teacher 'unet': .* leaves nothing of"):
        create_teacher("unet", sigma_min=3, sigma_max=2)


def test_the_shipped_digits_teacher_denoises_digits():
    """Its error at moderate noise is far below that of the best constant and of the input."""
    teacher = create_teacher("unet")
    assert (teacher.checkpoint.path.stat().st_size) < 5_000_000
    assert teacher.spec.digest == SHIPPED_DIGITS
    x0, _ = teacher.dataset().draw(1, "check", torch.arange(128))
    sigma = torch.tensor(0.5, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        denoised = teacher.denoise(x0 + 0.5 * torch.randn_like(x0), sigma)
    error = float((denoised - x0).square().mean())
    assert error < 0.3 * 0.25
    assert error < 0.2 * float(x0.var(0).mean())


def test_the_shipped_photos16_denoises_regions_it_has_not_seen():
    """Of the two photographs that every installation has; better than their best constant."""
    teacher = create_teacher("unet", weights="photos16")
    assert (teacher.checkpoint.path.stat().st_size) < 8_000_000
    assert teacher.spec.digest == SHIPPED_PHOTOS16
    assert teacher.checkpoint.training["dataset"] == {"name": "photos", "params": {"set": "all"}}
    x0, _ = create("dataset", "photos").draw(0, "reference", torch.arange(128))
    torch.manual_seed(0)
    noise = torch.randn_like(x0)
    for sigma, most in ((0.1, 0.3 * 0.1**2), (0.5, 0.1 * 0.5**2), (5.0, 0.2)):
        with torch.no_grad():
            denoised = teacher.denoise(x0 + sigma * noise, torch.tensor(sigma).double())
        assert float((denoised - x0).square().mean()) < most


def test_samples_of_a_teacher_and_its_data_become_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["", "digits", str(tmp_path), "--n", "3", "--steps", "8"])
    main()
    found = {p.stem: np.load(p)["arr_0"] for p in tmp_path.iterdir()}
    assert {k: (v.shape, str(v.dtype)) for k, v in found.items()} == dict.fromkeys(
        ("teacher", "reference", "training"), ((3, 8, 8, 1), "uint8")
    )
    stored = create("dataset", "digits").decode()[0][:3]
    assert np.array_equal(found["reference"].transpose(0, 3, 1, 2), stored)
    ink = found["teacher"].astype(float)
    assert 30 < ink.mean() < 130  # digits are dark with bright strokes
    assert ink.std() > 60


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trian": {}}, "trian: unknown key (did you mean 'train'? known: dataset, "),
        ({"train": {"images": 16, "bacth": 3}}, "train.bacth: unknown key (did you mean 'batch'?"),
        ({"train": {"images": 16, "lr": "fast"}}, "train.lr: must be a number, got 'fast'"),
        ({"train": {"batch": 16}}, "train.images: is needed"),
        ({"train": 3}, "train: must be a section of key: value, got 3"),
        ({"dataset": 3}, "dataset: 3: write NAME or {NAME: {key: value}}"),
        (
            {"network": {"model_type": "SongUNet", "model_chanels": 8}},
            "network.model_chanels: unknown key (did you mean 'model_channels'? known: attn_",
        ),
        (
            {"network": {"model_type": "DhariwalUNet", "channel_mult": [1, "two"]}},
            "network.channel_mult.1: must be a whole number, got 'two'",
        ),
        (
            {"network": {"model_type": "Song"}},
            "network: 'model_type' must be one of 'SongUNet', 'DhariwalUNet', got 'Song'",
        ),
        ({"network": {"model_channels": 8}}, "network: 'model_type' is needed"),
        ({"sigma_data": 0, "network": {}}, "'model_type' is needed; sigma_data: must be greater"),
    ],
)
def test_wrong_configurations_speak_as_grids_do(tmp_path, harness, changes, told):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    code, _, err = harness(
        "teacher", "train", "--config", path, "--out", tmp_path / "t.safetensors"
    )
    assert code == 2
    assert err.startswith(f"error: {path}: ")
    assert told in err
    assert len(err.splitlines()) == 1


def test_what_is_no_configuration_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    for text, told in (
        ("", "a teacher's configuration is a mapping"),
        ("a: [", "line 1: not valid YAML"),
        ("train: {}\ntrain: {}", "line 2: not valid YAML: key 'train' is written twice"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"{path}.*{told}"):
            load_config(path)
    path.write_text(
        yaml.safe_dump({**CONFIG, "network": {**CONFIG["network"], "channel_mult": [1] * 5}})
    )
    with pytest.raises(ConfigError, match=r"^network: img_resolution 8 cannot be halved 4x$"):
        train_teacher(load_config(path), tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match="safetensors"):
        train_teacher(config(tmp_path), tmp_path / "t.pkl")
    with pytest.raises(ConfigError, match="not divisible"):
        train_teacher(config(tmp_path), tmp_path / "t.safetensors", processes=3)


def test_a_moved_teacher_is_the_same_run_and_a_changed_one_is_not(tmp_path, grid):
    from harness.config.grid import load_grid
    from harness.config.matrix import expand

    one = train_teacher(config(tmp_path, images=16), tmp_path / "one.safetensors")
    two = tmp_path / "elsewhere.safetensors"
    two.write_bytes(one.read_bytes())
    other = train_teacher(config(tmp_path, images=16, seed=1), tmp_path / "other.safetensors")

    def run_id(path, **more):
        params = {"weights": str(path), **more}
        axis = f"axes.teacher=[{{name: unet, params: {params}}}]"
        return expand(load_grid(grid, [axis, "axes.precond=[ctm]"])).specs[0].run_id

    assert run_id(one) == run_id(two) != run_id(other)
    with pytest.raises(ConfigError, match="another file than the one that was meant"):
        run_id(one, sha256="abc")


def test_convert_on_the_command_line(tmp_path, harness):
    out = tmp_path / "t.safetensors"
    code, text, _ = harness(
        "teacher", "convert", "tests/fixtures/edm/edm-cifar10-32x32-uncond-vp-small.pkl", out
    )
    assert code == 0
    assert str(out) in text
    a = create_teacher("edm", weights="tests/fixtures/edm/edm-cifar10-32x32-uncond-vp-small.pkl")
    b = create_teacher("edm", weights=str(out))
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([0.7], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(a.denoise(x, t), b.denoise(x, t))
    code, _, err = harness("teacher", "convert", tmp_path / "none.pkl", out)
    assert code == 2
    assert "no such file" in err


@pytest.mark.slow
def test_two_processes_train_the_same_teacher(tmp_path):
    from safetensors.torch import load_file

    from tests.conftest import command

    path = tmp_path / "teacher.yaml"
    recipe = {**CONFIG["train"], "images": 64}
    path.write_text(yaml.safe_dump({**CONFIG, "train": recipe}))
    weights = []
    for processes in (1, 2):
        out = tmp_path / f"p{processes}.safetensors"
        process = command(
            *["teacher", "train", "--config", path, "--out", out, "--processes", processes]
        )
        text, err = process.communicate(timeout=240)
        assert process.returncode == 0, text + err
        weights.append(load_file(out))
    for key, value in weights[0].items():
        assert float((value - weights[1][key]).abs().max()) < 1e-5
