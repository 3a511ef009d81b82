"""Teacher `openai` against numbers from the reference code; what its .pt reader refuses."""

import contextlib
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import ConfigError, create_teacher
from teachers.edm_format.convert import convert
from teachers.edm_format.network import check, load
from teachers.openai_format.layout import Settings, open_openai
from teachers.openai_format.state_dict import read_state_dict

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "fixtures" / "published"
SMALL = {"resolution": 16, "head_channels": 32}
LSUN = {"resolution": 16, "head_channels": 16}


def teacher(file="edm_small_ema.pt", **params):
    return create_teacher("openai", weights=str(PUBLISHED / file), **{**SMALL, **params})


def weights(file="edm_small_ema.pt") -> dict[str, torch.Tensor]:
    return torch.load(PUBLISHED / file, weights_only=True)


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def worst(made, file: str, labels: bool) -> float:
    """Largest difference from the recorded denoiser, over its largest value, of all levels."""
    with np.load(PUBLISHED / file) as stored:
        r = {key: torch.from_numpy(stored[key]) for key in stored}
    given = torch.eye(10)[r["y"]] if labels else None
    errors = []
    for k, sigma in enumerate(r["sigmas"]):
        with torch.no_grad():
            found = made.denoise(r["x0"] + sigma.float() * r["eps"], sigma, given)
        errors.append(float((found - r["out"][k]).abs().max() / r["out"][k].abs().max()))
    return max(errors)


def test_outputs_are_the_reference_codes():
    assert worst(teacher(), "edm_small_ema.npz", labels=True) < 1e-5
    # LSUN's layout: no classes, no scaling by the embedding (recorded from openai's own UNetModel)
    assert worst(teacher("openai_lsun_small.pt", **LSUN), "openai_lsun_small.npz", False) < 1e-5


def test_spec_and_student():
    made = teacher()
    assert (made.spec.shape, made.spec.classes, made.spec.sigma_data) == ((3, 16, 16), 10, 0.5)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 40.0]).double()
    labels, student = torch.eye(10)[:2], made.network().eval()
    for settings in ({}, {"s_branch": "per_block"}):
        student.adapt(settings, seed=0)
        with torch.no_grad():
            expected = made.backbone(x, t, None, labels)
            assert torch.equal(student(x, t, t / 3, labels), expected)
    assert {key for key in student.state_dict() if "affine_s" in key}


def test_the_legacy_order_of_attention(tmp_path):
    moved = weights()
    for name, value in moved.items():
        if ".qkv." in name:  # (three, heads, dim) -> (heads, three, dim)
            rows = value.reshape(3, -1, 16, *value.shape[1:]).transpose(0, 1)
            moved[name] = rows.reshape(value.shape).contiguous()
    path = saved(tmp_path / "w.pt", moved)
    options = {**SMALL, "head_channels": 16}
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(0.5).double()
    with torch.no_grad():
        new = teacher(head_channels=16).denoise(x, t)
        made = create_teacher("openai", weights=str(path), attention_order="legacy", **options)
        assert torch.equal(made.denoise(x, t), new)
        wrong = create_teacher("openai", weights=str(path), **options)
        assert not torch.allclose(wrong.denoise(x, t), new)
    assert wrong.spec.digest != made.spec.digest  # what is measured of one is not the other's


def test_attention_as_a_convolution_of_one_dimension(tmp_path):
    flat = {
        name: value[..., 0] if ".qkv.weight" in name or ".proj_out.weight" in name else value
        for name, value in weights().items()
    }
    path = saved(tmp_path / "w.pt", flat)
    made = create_teacher("openai", weights=str(path), **SMALL)
    assert worst(made, "edm_small_ema.npz", labels=True) < 1e-5


def test_conversion_keeps_every_bit(tmp_path):
    path = PUBLISHED / "edm_small_ema.pt"
    checkpoint = open_openai(path, Settings(**SMALL))
    from teachers.edm_format.safetensors_format import write_safetensors

    write_safetensors(checkpoint, tmp_path / "w.safetensors", "x")
    made = create_teacher("openai", weights=str(tmp_path / "w.safetensors"))
    for key, value in load(checkpoint).state_dict().items():
        assert torch.equal(value, made.backbone.state_dict()[key])
    assert convert(tmp_path / "w.safetensors", tmp_path / "v.safetensors").exists()


def test_planning_needs_no_torch():
    path = str(PUBLISHED / "edm_small_ema.pt")
    code = (
        "import sys; from harness.api import create_teacher;"
        f"print(create_teacher('openai', weights={path!r}, resolution=16, head_channels=32).spec);"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)


# -- what is not quite right is told -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "read without it"),
        (lambda w: {k: v.half() for k, v in w.items()}, "weights are float16"),
    ],
)
def test_what_can_be_read_all_the_same_is_said(tmp_path, change, says):
    path = saved(tmp_path / "w.pt", change(weights()))
    with pytest.warns(UserWarning, match=says):
        made = create_teacher("openai", weights=str(path), **SMALL)
    assert worst(made, "edm_small_ema.npz", labels=True) < 5e-3


def refused(path: Path, **params) -> str:
    with pytest.raises(ConfigError) as caught:
        check(open_openai(path, Settings(**{**SMALL, **params})))
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert "nvidia" not in sentence.lower()
    return sentence


def without(w, name):
    return {k: v for k, v in w.items() if k != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {"state": {}, "param_groups": []}, "optimizer's state"),
        (lambda w: {"model": w, "ema": w, "step": 3}, "whole training state"),
        (lambda w: list(w.values()), "not a state dict"),
        (lambda w: w["out.2.bias"], "not a state dict"),
        (lambda w: {**w, "step": 3}, "not a tensor"),
        (lambda w: {}, "no tensors"),
        (lambda w: without(w, "out.0.bias"), "lacks tensor 'out.0.bias'"),
        (lambda w: without(w, "time_embed.0.weight"), "lacks tensor 'time_embed.0.weight'"),
        (lambda w: {**w, "extra": torch.zeros(2)}, "unexpected tensor 'extra'"),
        (lambda w: {**w, "out.2.bias": torch.zeros(5)}, "is [5] instead of [3]"),
        (lambda w: {**w, "out.2.bias": torch.zeros(3).long()}, "not floating-point"),
        (lambda w: {**w, "out.2.weight": torch.zeros(6, 32, 3, 3)}, "predicts a variance"),
        (
            lambda w: {**w, "input_blocks.2.0.op.weight": torch.zeros(2)},
            "only networks with resblock_updown",
        ),
        (lambda w: {"model.map_layer0.weight": torch.zeros(2)}, "EDM's family"),
        (lambda w: {"conv_in.weight": torch.zeros(2)}, "diffusers"),
    ],
)
def test_other_files_are_refused_by_what_they_seem_to_be(tmp_path, change, says):
    assert says in refused(saved(tmp_path / "w.pt", change(weights())))


def test_what_the_file_does_not_tell_must_be_given_and_fit():
    path = PUBLISHED / "edm_small_ema.pt"
    assert "parameter `resolution`" in refused(path, resolution=None)
    assert "parameter `head_channels`" in refused(path, head_channels=64)
    assert "halved" in refused(path, resolution=15)
    with pytest.raises(ConfigError, match="is a student"):
        teacher("ctm_imagenet_small.pt", head_channels=16)
    with pytest.raises(ConfigError, match=r"download edm_imagenet64_ema\.pt from https://openai"):
        create_teacher("openai", weights="/nowhere/edm_imagenet64_ema.pt")


# -- hostile and damaged files -----------------------------------------------------------------


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, what):
        self.what = what

    def __reduce__(self):
        return os.system, (self.what,)


def rewritten(tmp_path: Path, edit) -> Path:
    """The fixture with its members changed by `edit`, written as a plain zip."""
    path, members = tmp_path / "w.pt", OrderedDict()
    with zipfile.ZipFile(PUBLISHED / "edm_small_ema.pt") as old:
        for name in old.namelist():
            members[name] = old.read(name)
    edit(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def pickled(**more):
    """A data.pkl of hand-written tensors on storage 0 (16384 bytes of it)."""
    offset, size, stride = (
        more.get(k, d) for k, d in (("offset", 0), ("size", (4,)), ("stride", (1,)))
    )
    count, key = more.get("count", 4096), more.get("key", "0")

    def number(n):
        return b"\x8a\x08" + int(n).to_bytes(8, "little", signed=True)

    def row(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(word):
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    storage += number(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + row(size)
    tensor += row(stride) + b"\x89}tR"
    return b"\x80\x02}" + text("w") + tensor + b"s."


def pickle_is(data):
    return lambda members: members.update({"edm_small_ema/data.pkl": data})


def drop(name):
    return lambda members: members.pop(f"edm_small_ema/{name}")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (pickle_is(pickle.dumps({"w": Runs("touch was-run")}, 2)), "could run"),
        (pickle_is(b"\x80\x02cbuiltins\neval\n."), "builtins.eval"),
        (pickle_is(b"\x80\x02ctorch\nload\n."), "torch.load"),
        (pickle_is(b"\x80\x02ctorch.storage\n_load_from_bytes\n."), "could run"),
        (pickle_is(b"\x80\x02cbuiltins\ngetattr\n."), "could run"),
        (pickle_is(pickled(size=(2**40,), stride=(0,))), "past its storage"),
        (pickle_is(pickled(size=(4,), stride=(2**40,))), "past its storage"),
        (pickle_is(pickled(offset=4096)), "past its storage"),
        (pickle_is(pickled(size=(2**50,))), "impossible sizes"),
        (pickle_is(pickled(size=(-4,))), "impossible sizes"),
        (pickle_is(pickled(size=(2, 2))), "put together wrongly"),
        (pickle_is(pickled(count=2**40)), "does not match its bytes"),
        (pickle_is(pickled(key="../../../etc/passwd")), "lacks the storage"),
        (pickle_is(pickled(key="9999")), "lacks the storage"),
        (pickle_is(pickled() + b"cos\nsystem\n."), "behind its pickle"),
        (pickle_is(b"\x80\x02" + b"(" * 10**5), "ends early"),
        (drop("data.pkl"), "no data.pkl"),
        (drop("data/0"), "lacks the storage"),
        (lambda m: m.update({"edm_small_ema/byteorder": b"big"}), "not little-endian"),
        (lambda m: m.update({"edm_small_ema/data/0": b"\0" * 4}), "does not match its bytes"),
        (lambda m: m.update({"other/data.pkl": b""}), "not a state dict"),
    ],
)
def test_hostile_members_are_refused(tmp_path, monkeypatch, edit, says):
    monkeypatch.chdir(tmp_path)
    path = rewritten(tmp_path, edit)
    assert says in refused(path)
    assert list(tmp_path.iterdir()) == [path]


def test_zip_tricks_are_refused(tmp_path):
    data = (PUBLISHED / "edm_small_ema.pt").read_bytes()
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("a/data.pkl", pickled())
    assert "compressed" in refused(path)
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("a/data.pkl", pickled())
        with pytest.warns(UserWarning, match="Duplicate"):
            new.writestr("a/data.pkl", pickled())
    assert "twice" in refused(path)
    # the directory calls a member one thing, the member itself another
    at = data.rindex(b"edm_small_ema/data/0")
    path.write_bytes(data[:at] + b"edm_small_ema/data/X" + data[at + 20 :])
    assert "calls itself" in refused(path) or "lacks the storage" in refused(path)
    # two members that share bytes: the first is said to be longer than it is
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        size = archive.getinfo(names[-2]).file_size + 200
    entry = data.rindex(names[-2].encode()) - 46
    longer = size.to_bytes(4, "little") * 2
    path.write_bytes(data[: entry + 20] + longer + data[entry + 28 :])
    assert "overlaps" in refused(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Quota exceeded", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x1f\x8b\x08" + b"\0" * 50, "gzip"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before torch 1.6"),
        (b"\x80\x04}.", "not a state dict as torch.save"),
        (b"PK\x03\x04" + b"\0" * 100, "zip"),
        (b"\0" * 1000, "damaged"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, data, says):
    path = tmp_path / "w.pt"
    path.write_bytes(data)
    assert says in refused(path)


def test_damage_is_only_ever_a_config_error(tmp_path):
    data, rng = (PUBLISHED / "openai_lsun_small.pt").read_bytes(), random.Random(0)
    path = tmp_path / "w.pt"
    for _ in range(20):
        path.write_bytes(data[: rng.randrange(len(data))])
        refused(path, **LSUN)
    for _ in range(60):
        damaged, reach = bytearray(data), rng.choice([len(data), 20_000, -20_000])
        for _ in range(rng.choice([1, 4, 32])):
            place = rng.randrange(reach) if reach > 0 else len(data) - 1 - rng.randrange(-reach)
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ConfigError):
            load(open_openai(path, Settings(**LSUN)))


def test_every_tensor_is_read_as_torch_reads_it():
    for file in ("edm_small_ema.pt", "ctm_small.pt", "ctm_imagenet_small.pt"):
        found, expected = read_state_dict(PUBLISHED / file), weights(file)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert torch.equal(torch.from_numpy(found[name].read()), value), name
