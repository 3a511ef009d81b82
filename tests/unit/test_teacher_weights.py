"""Teachers' files as others save them: wrapped, in bfloat16, or with weights that are NaN."""

import json
import struct

import numpy as np
import pytest
import torch

from harness.api import ConfigError, create
from teachers.edm_format.convert import convert
from teachers.unet import SHIPPED

DIGITS = SHIPPED / "digits.safetensors"


def parts():
    """Header and elements of the shipped teacher."""
    content = DIGITS.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])


def written(path, header, body):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    return path


def weights(header):
    """Names of the tensors, in order."""
    return [name for name in header if name != "__metadata__"]


def changed(path, value, name=None):
    """The shipped teacher with one number of a tensor changed; returns the tensor's name."""
    header, body = parts()
    name = name or weights(header)[3]
    start = header[name]["data_offsets"][0]
    body[start : start + 4] = np.float32(value).tobytes()
    written(path, header, body)
    return name


def denoised(path, **params):
    teacher = create("teacher", "unet", {"weights": str(path), **params})
    x = torch.linspace(-1, 1, 2 * 64).reshape(2, *teacher.spec.shape)
    return teacher.denoise(x, torch.tensor(0.5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    path = tmp_path / "bad.safetensors"
    name = changed(path, value)
    with pytest.raises(ConfigError, match=f"^teacher 'unet': {path}: tensor '{name}' holds NaN or"):
        denoised(path)
    with pytest.raises(ConfigError, match=f"tensor '{name}' holds NaN or infinity"):
        convert(path, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_weights_that_a_precision_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "large.safetensors"
    name = changed(path, 1e5)
    assert denoised(path).isfinite().all()
    assert denoised(path, precision="bf16").isfinite().all()
    told = f"tensor '{name}' holds 1e\\+05, more than 6.55e\\+04; choose another precision"
    with pytest.raises(ConfigError, match=told):
        denoised(path, precision="fp16")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model._orig_mod"]
)
def test_wrapped_networks_are_unwrapped(tmp_path, prefix):
    header, body = parts()
    described = json.loads(header["__metadata__"]["precondbench.edm"])

    def wrap(name):
        if prefix == "model._orig_mod":  # the inner network alone was compiled
            return name.replace("model.", "model._orig_mod.", 1)
        return prefix + name

    both = {"order": [wrap(name) for name in described["order"]]}
    for told in (described, described | both):  # the list of names with it, or as it was
        metadata = {"precondbench.edm": json.dumps(told)}
        wrapped = {wrap(name): header[name] for name in weights(header)}
        path = written(tmp_path / "w.safetensors", {"__metadata__": metadata, **wrapped}, body)
        assert torch.equal(denoised(path), denoised(DIGITS))


def test_a_tensor_that_lacks_is_named(tmp_path):
    header, body = parts()
    name = weights(header)[2]
    renamed = {f"ema.{k}" if k == name else k: v for k, v in header.items()}
    path = written(tmp_path / "x.safetensors", renamed, body)
    with pytest.raises(ConfigError, match=f"it lacks tensor '{name}'"):
        denoised(path)


def in_type(kind, size, convert_to):
    """Header and elements with every tensor of another type."""
    header, body = parts()
    out, at = bytearray(), 0
    for name in weights(header):
        start, stop = header[name]["data_offsets"]
        data = convert_to(np.frombuffer(bytes(body[start:stop]), np.float32))
        header[name] |= {"dtype": kind, "data_offsets": [at, at + len(data)]}
        out += data
        at += len(data)
        assert len(data) == size * (stop - start) // 4
    return header, out


def test_bfloat16_is_read(tmp_path):
    """By its own rule, and when converted into float32."""

    def upper(values):
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()

    header, body = in_type("BF16", 2, upper)
    path = written(tmp_path / "b.safetensors", header, body)
    teacher = create("teacher", "unet", {"weights": str(path)})
    whole = create("teacher", "unet", {"weights": str(DIGITS)})
    for key, value in whole.backbone.state_dict().items():
        cut = torch.from_numpy((value.float().numpy().view(np.uint32) >> 16 << 16).view(np.float32))
        assert torch.equal(teacher.backbone.state_dict()[key].float(), cut.reshape(value.shape))
    again = convert(path, tmp_path / "f.safetensors")
    assert torch.equal(denoised(again), denoised(path))


def test_a_type_that_is_not_read_is_named(tmp_path):
    header, body = in_type("F8_E4M3", 1, lambda values: bytes(len(values)))
    path = written(tmp_path / "f8.safetensors", header, body)
    told = r"has tensor '[\w.]+' of type F8_E4M3, which is not read; save it as one of F16, F32"
    with pytest.raises(ConfigError, match=told):
        denoised(path)
