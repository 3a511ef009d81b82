"""The harness's own format of a teacher: safetensors, with the configuration in its header.

A safetensors file is a length (uint64), a JSON header {name: {dtype, shape, data_offsets}} and the
raw elements. Its `__metadata__` holds the configuration as one JSON string, so that a single file
is a complete teacher and remains readable by other safetensors readers.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.api import ConfigError
from teachers.edm_format.checkpoint import BFLOAT16, CONVERT, Checkpoint, StoredTensor, refusal
from teachers.edm_format.config import NetworkConfig

if TYPE_CHECKING:
    from harness.backbones.unet import UNetBackbone

KEY = "precondbench.edm"
_FORMAT = 1
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "BF16": BFLOAT16}
_ITEM = {"F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "BF16": 2}
_MAX_HEADER = 16 * 2**20
_MEND = f"{CONVERT}, or `... teacher train` if it was trained here"


def read_safetensors(path: Path) -> Checkpoint:
    """Open a teacher written by `write_safetensors`; reads the header only.

    Raises:
        ConfigError: the file is damaged, or is not a teacher of this harness.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length).decode("utf-8"))
        return _checkpoint(path, header, 8 + length, size)
    except OSError as error:
        raise refusal(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    except ConfigError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise refusal(path, f"is damaged, or no teacher ({reason})", _MEND) from None
    except Exception as error:  # whatever damage does: no traceback may come from a bad file
        kind = type(error).__name__
        raise refusal(path, f"is damaged, or no teacher ({kind})", _MEND) from None


def _checkpoint(path: Path, header: Any, begin: int, size: int) -> Checkpoint:
    metadata = header.pop("__metadata__", None) or {}
    if KEY not in metadata:
        raise ValueError(f"its header has no entry {KEY!r}")
    described = json.loads(metadata[KEY])
    if described["format"] != _FORMAT:
        raise ValueError("its format is of another version")
    config = NetworkConfig.validated(described["config"])
    header = {_unwrapped(name): entry for name, entry in header.items()}
    tensors: dict[str, StoredTensor] = {}
    for name in map(_unwrapped, described["order"]):
        if name not in header:
            raise ValueError(f"it lacks tensor {name!r}")
        if (kind := header[name]["dtype"]) not in _DTYPES:
            problem = f"has tensor {name!r} of type {kind}, which is not read"
            raise refusal(path, problem, f"save it as one of {', '.join(_DTYPES)}")
        tensors[name] = _tensor(path, header[name], begin, size)
    if len(tensors) != len(header):
        raise ValueError("its list of tensors is not the one of its header")
    spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    ends = [0, *(stop for _, stop in spans)]
    if any(start != end for (start, _), end in zip(spans, ends, strict=False)):
        raise ValueError("its tensors overlap or leave gaps")
    if begin + ends[-1] != size:
        raise ValueError("its size is not the one its header tells")
    return Checkpoint(path, config, tensors, training=described.get("training"))


def _unwrapped(name: str) -> str:
    """A tensor's name without the prefixes of DistributedDataParallel and torch.compile."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        del parts[0]
    return ".".join(parts)


def _tensor(path: Path, entry: Mapping[str, Any], begin: int, size: int) -> StoredTensor:
    kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in _DTYPES or len(shape) > 8:
        raise ValueError("a tensor of unknown type")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (*shape, start, stop)):
        raise ValueError("a tensor of impossible size")
    tensor = StoredTensor(path, begin + start, (stop - start) // _ITEM[kind], _DTYPES[kind], shape)
    if tensor.count * _ITEM[kind] != stop - start or begin + stop > size:
        raise ValueError("a tensor that does not match its bytes")
    return tensor


def write_safetensors(checkpoint: Checkpoint, out: Path, source: str) -> None:
    """Write a teacher, one tensor at a time, to a temporary file that is finally renamed to `out`.

    Args:
        checkpoint: what to write; its tensors are read as they are needed.
        out: the new file; an older one of that name is replaced.
        source: SHA-256 of the file it was made from, kept as provenance.
    """
    names = {form: kind for kind, form in _DTYPES.items()} | {BFLOAT16: "F32"}  # as it is read
    description = _description(checkpoint.config, checkpoint.tensors, source_sha256=source)
    header: dict[str, Any] = {"__metadata__": {KEY: description}}
    position = 0
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype not in names:
            problem = f"has a tensor of dtype {tensor.dtype}"
            raise refusal(checkpoint.path, problem, checkpoint.mend)
        stop = position + tensor.count * _ITEM[names[tensor.dtype]]
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)  # keep the elements aligned
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        try:
            _write(file, text, checkpoint)
            os.replace(file.name, out)
        except BaseException:
            os.unlink(file.name)
            raise


def _write(file: IO[bytes], header: bytes, checkpoint: Checkpoint) -> None:
    file.write(struct.pack("<Q", len(header)) + header)
    for name, tensor in checkpoint.tensors.items():
        values = tensor.read()
        checkpoint.refuse_bad(name, values)
        file.write(values.data)
    file.flush()
    os.fsync(file.fileno())


def write_trained(
    backbone: UNetBackbone, config: NetworkConfig, out: Path, training: dict[str, Any]
) -> None:
    """Write a teacher trained by this harness, float32; `training` holds its data and recipe."""
    from safetensors.torch import save

    from harness.store.files import write_atomic

    tensors = {
        f"model.{key.removeprefix('net.')}": value.detach().float().cpu().contiguous()
        for key, value in backbone.state_dict().items()
        if key.startswith("net.")
    }
    description = _description(config, tensors, training=training)
    write_atomic(out, save(tensors, metadata={KEY: description}))


def _description(config: NetworkConfig, names: Iterable[str], **origin: Any) -> str:
    kept = {
        **config.model_dump(exclude_defaults=True),
        "inner": {
            "class_name": config.inner.class_name,
            **config.inner.model_dump(exclude_defaults=True),
        },
        "model": {
            "model_type": config.model.model_type,
            **config.model.model_dump(exclude_defaults=True),
        },
    }
    described = {"format": _FORMAT, "config": kept, "order": list(names), **origin}
    return json.dumps(described, allow_nan=False)
