"""A teacher trained here: the loss falls, a resumed training ends in the same bits, the file works."""

import pytest
import torch
import yaml

from harness.api import ConfigError, create, create_teacher
from teachers.training.config import load_config
from teachers.training.train import train_teacher

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


def test_the_shipped_digits_teacher_denoises_digits():
    """Its error at moderate noise is far below that of the best constant, and of the noisy image."""
    teacher = create_teacher("unet")
    assert (teacher.checkpoint.path.stat().st_size) < 5_000_000
    x0, _ = teacher.dataset().draw(1, "check", torch.arange(128))
    sigma = torch.tensor(0.5, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        denoised = teacher.denoise(x0 + 0.5 * torch.randn_like(x0), sigma)
    error = float((denoised - x0).square().mean())
    assert error < 0.3 * 0.25
    assert error < 0.2 * float(x0.var(0).mean())


def test_wrong_configurations_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such file|No such file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "trian": {}}))
    with pytest.raises(ConfigError, match="trian"):
        load_config(path)
    with pytest.raises(ConfigError, match="safetensors"):
        train_teacher(config(tmp_path), tmp_path / "t.pkl")
    with pytest.raises(ConfigError, match="not divisible"):
        train_teacher(config(tmp_path), tmp_path / "t.safetensors", processes=3)
