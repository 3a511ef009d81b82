"""The readers of EDM's files: faithful to genuine ones, closed to everything else."""

import ast
import contextlib
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from harness.backbones.adm import DhariwalUNet
from harness.backbones.inner import IDDPM
from harness.backbones.song import SongUNet
from harness.errors import ConfigError
from teachers.edm_format.checkpoint import BASE_URL
from teachers.edm_format.convert import convert, open_checkpoint
from teachers.edm_format.network import check, load
from tests.unit import edm_layout

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "edm"
NAMES = ["edm-cifar10-32x32-uncond-vp-small", "edm-imagenet-64x64-cond-adm-small"]
HOSTILE = sorted(path.name for path in (FIXTURES / "hostile").iterdir())
TINY = {
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "img_resolution": 8,
    "img_channels": 3,
}
NETWORKS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


def tiny(class_name="EDMPrecond", recorded=True, more=None, **options) -> edm_layout.Precond:
    """A small network as a file holds it; `more` is added to the recorded arguments only."""
    arguments = {**TINY, **options}
    own = {k: v for k, v in arguments.items() if k not in ("model_type", "img_channels")}
    outputs = 6 if class_name == "iDDPMPrecond" else 3
    net = NETWORKS[arguments["model_type"]](in_channels=3, out_channels=outputs, **own)
    kwargs = {**arguments, **(more or {})} if recorded else None
    state = {"img_resolution": 8, "img_channels": 3, "sigma_data": 0.5, "use_fp16": False}
    outer = edm_layout.Precond(class_name, edm_layout.randomise(net), kwargs, **state)
    if class_name == "iDDPMPrecond":
        outer.register_buffer("u", IDDPM().u.clone())
    return outer


def refused(path: Path) -> str:
    """Open and build `path`, which must fail with one sentence naming it; return the sentence."""
    with pytest.raises(ConfigError) as caught:
        check(open_checkpoint(path))
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


# -- genuine files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_keys_order_shapes_and_bytes(name):
    checkpoint = open_checkpoint(FIXTURES / f"{name}.pkl")
    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    shapes = {key: list(tensor.shape) for key, tensor in checkpoint.tensors.items()}
    assert list(shapes.items()) == [(k, v[0]) for k, v in recorded["state_dict"].items()]
    for key, digest in recorded["state_sha256"].items():
        values = checkpoint.tensors[key].read()
        assert hashlib.sha256(values.tobytes()).hexdigest().startswith(digest)
    assert checkpoint.notes == ()
    backbone = load(checkpoint)
    assert sum(p.numel() for p in backbone.parameters()) == recorded["params"]
    assert [f"model.{k}" for k in backbone.net.state_dict()] == list(recorded["state_dict"])
    assert not any(p.requires_grad for p in backbone.parameters())


def test_opening_needs_no_torch_and_no_pickle_module():
    path = FIXTURES / f"{NAMES[0]}.pkl"
    code = (
        "import sys; from harness.api import create_teacher;"
        f"print(create_teacher('edm', weights={str(path)!r}).spec.shape);"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
    for source in (ROOT / "teachers" / "edm_format").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                assert not {"pickle", "marshal", "importlib"} & {name.name for name in node.names}
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in ("pickle", "importlib")
            if isinstance(node, ast.Name):
                assert node.id not in ("exec", "eval", "__import__", "compile")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load")


def test_hostile_source_text_is_only_a_string(tmp_path):
    marker = tmp_path / "was-run"
    path = tmp_path / "file.pkl"
    edm_layout.write(path, tiny(), source=f"open({str(marker)!r}, 'w').write('x')")
    load(open_checkpoint(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_dim": 3, "augment_dim": 9},
        {"encoder_type": "skip", "decoder_type": "skip"},
        {
            "encoder_type": "residual",
            "embedding_type": "fourier",
            "resample_filter": [1, 3, 3, 1],
            "channel_mult_noise": 2,
        },
        {"model_type": "DhariwalUNet", "model_channels": 64, "label_dim": 3},
        {"model_type": "DhariwalUNet", "channel_mult": [2, 3], "augment_dim": 2},
    ],
)
def test_a_file_without_recorded_arguments_is_inferred(tmp_path, options):
    path = tmp_path / "file.pkl"
    outer = tiny(recorded=False, **options)
    edm_layout.write(path, outer)
    checkpoint = open_checkpoint(path)
    assert "inferred" in checkpoint.notes[0]
    backbone, net = load(checkpoint), outer.model.eval()
    x, noise = torch.randn(2, 3, 8, 8), torch.tensor([0.1, -0.4])
    labels = torch.eye(3)[:2] if options.get("label_dim") else None
    assert torch.equal(backbone.net(x, noise, labels), net(x, noise, labels))


@pytest.mark.parametrize("name", NAMES)
def test_inference_finds_the_fixtures_networks(name):
    from teachers.edm_format.infer import infer_arguments

    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    shapes = {key: tuple(value[0]) for key, value in recorded["state_dict"].items()}
    found = infer_arguments(shapes)
    same = {k: v for k, v in recorded["init_kwargs"].items() if k not in ("dropout", "use_fp16")}
    assert {key: found[key] for key in same} == same


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_reads_the_same(tmp_path, protocol):
    path, outer = tmp_path / "file.pkl", tiny(label_dim=3)
    edm_layout.write(path, outer, protocol=protocol)
    backbone = load(open_checkpoint(path))
    for key, value in outer.model.state_dict().items():
        assert torch.equal(backbone.net.state_dict()[key], value), key


def test_a_refusal_sends_to_nvidia_for_nvidias_files_alone(tmp_path):
    for name, sent in (("edm-cifar10-32x32-uncond-vp.pkl", True), ("mine.pkl", False)):
        path = tmp_path / name
        for data in (b"\x80\x04}.", b"\x80\x04cbuiltins\neval\n.", b"\x80\x04K"):
            path.write_bytes(data)
            assert (BASE_URL in refused(path)) == sent


@pytest.mark.parametrize("class_name", ["VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_other_preconditioners_load(tmp_path, class_name):
    path = tmp_path / "file.pkl"
    edm_layout.write(path, tiny(class_name))
    checkpoint = open_checkpoint(path)
    backbone = load(checkpoint)
    assert type(backbone.inner).__name__ == class_name.replace("Precond", "").upper()
    assert backbone(torch.randn(2, 3, 8, 8), torch.tensor([0.1, 2.0])).shape == (2, 3, 8, 8)
    lowest, highest = checkpoint.config.inner.range()
    assert (lowest, highest) == (backbone.inner.sigma_min, backbone.inner.sigma_max)


def test_unknown_plain_arguments_are_reported_and_ignored(tmp_path):
    path = tmp_path / "file.pkl"
    edm_layout.write(path, tiny(more={"flavour": "sweet"}))
    checkpoint = open_checkpoint(path)
    assert "'flavour'" in checkpoint.notes[0]
    check(checkpoint)


def test_numpy_numbers_and_strided_and_half_tensors(tmp_path):
    path = tmp_path / "file.pkl"
    outer = tiny(more={"dropout": np.float64(0.25)})
    with torch.no_grad():
        layer = outer.model.enc["8x8_conv"]
        kept = layer.weight.clone()
        layer.weight = torch.nn.Parameter(kept.to(memory_format=torch.channels_last))
        outer.model.map_layer0.bias = torch.nn.Parameter(outer.model.map_layer0.bias.half())
    assert not layer.weight.is_contiguous()
    edm_layout.write(path, outer)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.model.dropout == 0.25
    backbone = load(checkpoint)
    assert torch.equal(backbone.net.enc["8x8_conv"].weight, kept)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


# -- files that must be refused ----------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_run_nothing(name, tmp_path, monkeypatch):
    path = Path(shutil.copy(FIXTURES / "hostile" / name, tmp_path))
    monkeypatch.chdir(tmp_path)
    sentence = refused(path)
    assert list(tmp_path.iterdir()) == [path]  # the ones that could run code would make a file
    if "global" in name or "reduce" in name or "nested" in name:
        assert "nothing in it was run" in sentence


class _Runs:
    """Pickles into a call of os.mkdir on a path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_call_anywhere_in_the_file_is_refused(tmp_path, protocol):
    marker = tmp_path / "was-run"
    path = tmp_path / "file.pkl"
    for value in ({"ema": 1, "x": _Runs(marker)}, [_Runs(marker)], _Runs(marker)):
        path.write_bytes(pickle.dumps(value, protocol))
        assert "mkdir" in refused(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x04Pabc\n.", "opcode"),  # persistent id, textual
        (b"\x80\x04K\x01Q.", "opcode"),  # persistent id in the outer stream
        (b"\x80\x04}\x94(ios\nsystem\n.", "opcode"),  # INST
        (b"\x80\x04\x82\x01.", "opcode"),  # extension registry
        (b"\x80\x04B\xff\xff\xff\x7f.", "ends early"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "ends early"),
        (b"\x80\x04}r\xff\xff\xff\x7f.", "no entry 'ema'"),  # a memo index that is a memory bomb
        (b"\x80\x04" + b"(" * 100_000 + b".", "damaged"),
        (b"\x80\x04" + b"]" * 10 + b"a" * 9 + b".", "no entry"),
        (b"\x80\x04ctorch\nos.system\n.", "torch.os.system"),
        (b"\x80\x04cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x04c__builtin__\neval\n.", "eval"),
        (b"\x80\x04ccollections\nOrderedDict\nb.", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04" + b"\x00" * 100, "is a zip"),
        (b"\x80\x04cbuiltins\ngetattr\n(cbuiltins\nset\nX\x01\x00\x00\x00atR.", "bound method"),
        (b"\x80\x040.", "damaged"),
        (b"(dp0\n.", "not a pickle of protocol 2 to 5"),
    ],
)
def test_handmade_streams_are_refused(tmp_path, data, says):
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    assert says in refused(path)


def test_modules_that_share_or_hold_themselves_do_not_explode(tmp_path):
    path = tmp_path / "file.pkl"
    node = edm_layout.Precond("Layer", torch.nn.Identity(), {})
    for _ in range(14):  # 8^14 modules if walked without a limit
        layer = edm_layout.Precond("Layer", torch.nn.Identity(), {})
        layer._modules = {str(i): node for i in range(8)}
        node = layer
    node.class_name = "EDMPrecond"
    edm_layout.write(path, node)
    assert "far more modules" in refused(path)


def test_a_huge_network_is_refused_before_it_is_built(tmp_path):
    path = tmp_path / "file.pkl"
    for more in (
        {"num_blocks": 10**9},
        {"channel_mult": [64] * 60},
        {"model_channels": 10**7},
        {"img_resolution": 2**40},
        {"channel_mult": "many"},
        {"model_type": "StyleGAN"},
        {"dropout": float("nan")},
    ):
        edm_layout.write(path, tiny(more=more))
        assert "cannot be built" in refused(path)
    edm_layout.write(path, tiny(more={"dropout": [[[[1]]]]}))
    assert "constructor argument" in refused(path)


def test_strict_loading(tmp_path):
    path = tmp_path / "file.pkl"
    outer = tiny()
    del outer.model.map_layer1.bias
    edm_layout.write(path, outer)
    assert "lacks tensor 'net.map_layer1.bias'" in refused(path)
    outer = tiny()
    outer.model.map_layer1.extra = torch.nn.Parameter(torch.zeros(2))
    edm_layout.write(path, outer)
    assert "unexpected tensor 'net.map_layer1.extra'" in refused(path)
    outer = tiny()
    outer.model.map_layer1.bias = torch.nn.Parameter(torch.zeros(5))
    edm_layout.write(path, outer)
    assert "is [5] instead of [32]" in refused(path)
    outer = tiny()
    outer.register_buffer("surprise", torch.zeros(2))
    edm_layout.write(path, outer)
    assert "unexpected tensor" in refused(path)
    edm_layout.write(path, tiny(more={"encoder_type": "residual"}))
    assert "does not hold the network it describes" in refused(path)
    edm_layout.write(path, tiny("EDM2Precond"))
    assert "known class" in refused(path)


def survives(path: Path) -> None:
    """Opening and loading `path` either works or is a ConfigError; nothing else may escape."""
    with contextlib.suppress(ConfigError):
        load(open_checkpoint(path))


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_damage_is_only_ever_a_config_error(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole.pkl"
    edm_layout.write(whole, tiny(label_dim=3))
    if suffix == ".safetensors":
        whole = convert(whole, tmp_path / "whole.safetensors")
    data, rng = whole.read_bytes(), random.Random(0)
    path = tmp_path / f"damaged{suffix}"
    for _ in range(30):
        path.write_bytes(data[: rng.randrange(len(data))])
        refused(path)
    before = set(tmp_path.iterdir())
    for _ in range(100):
        damaged = bytearray(data)
        # half of the damage goes where the structure is, at the beginning
        reach = len(data) if rng.random() < 0.5 else 4000
        for _ in range(rng.choice([1, 1, 4, 32])):
            damaged[rng.randrange(reach)] = rng.randrange(256)
        path.write_bytes(damaged)
        survives(path)
    assert set(tmp_path.iterdir()) == before


def test_truncated_and_flipped_fixtures(tmp_path):
    data, rng = (FIXTURES / f"{NAMES[0]}.pkl").read_bytes(), random.Random(1)
    path = tmp_path / "damaged.pkl"
    for _ in range(10):
        path.write_bytes(data[: rng.randrange(len(data))])
        refused(path)
    for _ in range(10):
        damaged = bytearray(data)
        for _ in range(64):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        survives(path)


# -- safetensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_convert_keeps_every_bit(tmp_path, name):
    out = convert(FIXTURES / f"{name}.pkl", tmp_path / "teacher.safetensors")
    assert list(tmp_path.iterdir()) == [out]
    old, new = open_checkpoint(FIXTURES / f"{name}.pkl"), open_checkpoint(out)
    assert new.config == old.config
    assert list(new.tensors) == list(old.tensors)
    with safe_open(out, framework="np") as file:  # any other reader agrees
        for key, tensor in old.tensors.items():
            expected = tensor.read()
            assert new.tensors[key].read().tobytes() == expected.tobytes()
            assert file.get_tensor(key).tobytes() == expected.tobytes()
        described = json.loads(file.metadata()["precondbench.edm"])
    source = hashlib.sha256((FIXTURES / f"{name}.pkl").read_bytes()).hexdigest()
    assert described["source_sha256"] == source
    again = convert(out, tmp_path / "again.safetensors")
    assert open_checkpoint(again).config == old.config


def test_convert_keeps_other_inner_maps(tmp_path):
    edm_layout.write(tmp_path / "file.pkl", tiny("iDDPMPrecond", more={"C_1": 0.002}))
    out = convert(tmp_path / "file.pkl", tmp_path / "file.safetensors")
    assert open_checkpoint(out).config.inner.C_1 == 0.002
    assert load(open_checkpoint(out)).inner.u.equal(IDDPM().u)


def test_convert_refusals_leave_nothing_behind(tmp_path):
    good = tmp_path / "good.pkl"
    edm_layout.write(good, tiny())
    bad = Path(shutil.copy(FIXTURES / "hostile" / "bad_html.pkl", tmp_path))
    for source, out in (
        (bad, tmp_path / "x.safetensors"),
        (good, tmp_path / "x.pkl"),
        (good, tmp_path / "missing" / "x.safetensors"),
    ):
        with pytest.raises(ConfigError):
            convert(source, out)
    assert {path.name for path in tmp_path.iterdir()} == {"good.pkl", "bad_html.pkl"}


def test_foreign_safetensors_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    assert "precondbench.edm" in refused(path)


# -- memory ------------------------------------------------------------------------------------

_MEASURE = """
import os, resource, sys
import teachers.edm, teachers.edm_format.network
from harness.api import create_teacher
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
create_teacher("edm", weights=sys.argv[1]).backbone
print((peak() - before) / os.path.getsize(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_full_size_file_loads_in_little_memory(tmp_path, suffix):
    arguments = {"channel_mult": [2, 2, 2], "augment_dim": 9, "img_resolution": 32}
    path = tmp_path / "full.pkl"
    net = SongUNet(in_channels=3, out_channels=3, **arguments)
    recorded = {"model_type": "SongUNet", "img_channels": 3, **arguments}
    edm_layout.write(path, edm_layout.Precond("EDMPrecond", net, recorded))
    assert path.stat().st_size > 220e6
    if suffix == ".safetensors":
        path = convert(path, tmp_path / "full.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _MEASURE, str(path)]
    done = subprocess.run(command, check=True, env=environment, cwd=ROOT, capture_output=True)
    assert float(done.stdout) < 1.3  # 2.2 are allowed; one copy of the weights is enough
