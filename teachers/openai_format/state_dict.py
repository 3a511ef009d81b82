"""Read a state dict written by torch.save (.pt, .pth) without executing or importing anything.

Such a file is a zip of uncompressed members: `NAME/data.pkl`, a pickle of names and of tensors that
refer to storages, and `NAME/data/KEY`, the raw elements of one storage each. The pickle is read by
`teachers.edm_format.machine`, with a table of five names and torch's storage types; the elements
are read from the file when the network is filled.
"""

from __future__ import annotations

import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from harness.api import ConfigError
from teachers.edm_format.checkpoint import AGAIN, StoredTensor, refusal
from teachers.edm_format.kinds import hostile, refuse_other_kinds
from teachers.edm_format.machine import Machine, Refused, StandIn, short
from teachers.edm_format.stand_ins import DTYPES, ITEM, Storage, new_dict, parameter, tensor

EXPECTED = "a state dict as torch.save writes it"
SAVE_WEIGHTS = "save the network's weights alone: torch.save(network.state_dict(), 'weights.pt')"
_MAX_PICKLE, _MAX_MEMBERS, _LOCAL_HEADER = 64 * 2**20, 100_000, 30
#: the first pickle of torch.save's form before 1.6: a magic number
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def read_state_dict(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .pt file by name; reads its structure without weights.

    Raises:
        ConfigError: the file is malicious, damaged, of another kind, or not a plain state dict.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_BEFORE_1_6)) == _BEFORE_1_6:
                raise Refused("is a torch.save file in the form from before torch 1.6")
        if not zipfile.is_zipfile(path):
            refuse_other_kinds(path, EXPECTED)
            raise Refused(f"is damaged or cut short, or not {EXPECTED}")
        content = _File(path).load()
        if type(content) is not dict:
            raise Refused(f"holds a {_kind(content)}, not a state dict")
        _refuse_training_states(content)
        if not content or not all(type(name) is str for name in content):
            raise Refused("holds no tensors by name")
        for name, value in content.items():
            if not isinstance(value, StoredTensor):
                raise Refused(f"has an entry {short(name)} that is a {_kind(value)}, not a tensor")
        return content
    except Refused as reason:
        raise refusal(path, str(reason), _mend(str(reason))) from None
    except ConfigError:
        raise
    except OSError as error:
        raise refusal(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    except Exception as error:  # whatever damage does: no traceback may come from a bad file
        problem = f"is damaged, or not {EXPECTED} ({type(error).__name__})"
        raise refusal(path, problem, AGAIN) from None


def without_prefix(
    tensors: dict[str, StoredTensor], prefix: str = "module."
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Remove DistributedDataParallel's prefix from all names; return tensors and notes on it."""
    if not all(name.startswith(prefix) for name in tensors):
        return tensors, []
    note = f"its names begin with `{prefix}` (DistributedDataParallel): they are read without it"
    return {name.removeprefix(prefix): value for name, value in tensors.items()}, [note]


def precision_note(tensors: dict[str, StoredTensor]) -> list[str]:
    """A note if weights are in half precision, unlike the published files."""
    if not any(value.dtype == "<f2" for value in tensors.values()):
        return []
    return [
        "its weights are float16: what is computed with them differs from the float32 original in"
        " the fourth digit"
    ]


def _mend(reason: str) -> str:
    if "could run" in reason:
        return hostile(AGAIN) + f", or {SAVE_WEIGHTS}"
    if "before torch 1.6" in reason:
        return "write it anew: torch.save(torch.load(FILE, weights_only=True), 'weights.pt')"
    if "optimizer" in reason:
        return "name the network's file that was saved beside it (model*.pt or ema_*.pt)"
    if "training state" in reason or "not a state dict" in reason or "not a tensor" in reason:
        return SAVE_WEIGHTS
    return AGAIN


def _refuse_training_states(content: dict[Any, Any]) -> None:
    """Refuse an optimizer's state or a whole training state given instead of weights."""
    if {"state", "param_groups"} <= set(content):
        raise Refused("is an optimizer's state, not a network's weights")
    inner = [name for name, value in content.items() if type(value) is dict]
    if inner:
        listed = ", ".join(short(name) for name in content if type(name) is str)[:160]
        raise Refused(f"is a whole training state (entries {listed}), not the weights of a network")


def _kind(value: Any) -> str:
    return {"StoredTensor": "tensor", "dict": "dictionary"}.get(
        type(value).__name__, type(value).__name__
    )


class _File:
    """A zip written by torch.save, with the locations of its members."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self.members = self._locate()
        tops = {name.partition("/")[0] for name in self.members}
        self.top = next(iter(tops))
        if len(tops) != 1 or f"{self.top}/data.pkl" not in self.members:
            raise Refused(f"is a zip, but not {EXPECTED} (it has no data.pkl)")

    def load(self) -> Any:
        """The object in data.pkl; its tensors refer to this file."""
        start, size = self.members[f"{self.top}/data.pkl"]
        if size > _MAX_PICKLE:
            raise Refused("has a pickle far longer than any state dict's")
        with self.path.open("rb") as file:
            if (order := self.members.get(f"{self.top}/byteorder")) is not None:
                file.seek(order[0])
                if file.read(min(order[1], 16)) != b"little":
                    raise Refused("has weights that are not little-endian")
            file.seek(start)
            data = file.read(size)
        functions = {
            ("collections", "OrderedDict"): new_dict,
            ("torch._utils", "_rebuild_tensor_v2"): partial(tensor, self.path),
            ("torch._utils", "_rebuild_parameter"): parameter,
            **{("torch", name): partial(str, dtype) for name, dtype in DTYPES.items()},
        }
        table = {name: StandIn(make) for name, make in functions.items()}
        machine = Machine(data, 0, len(data), table, self._storage)
        content = machine.load()
        if machine.position != len(data):
            raise Refused("has something behind its pickle")
        return content

    def _storage(self, value: Any) -> Storage:
        """The storage of a persistent id ('storage', type, key, device, number of elements)."""
        if type(value) is not tuple or len(value) != 5 or value[0] != "storage":
            raise Refused("has weights with an unknown persistent id")
        _, kind, key, _, count = value
        if type(kind) is not StandIn or type(key) is not str or type(count) is not int:
            raise Refused("has weights with an unknown persistent id")
        if (found := self.members.get(f"{self.top}/data/{key}")) is None:
            raise Refused(f"lacks the storage {short(key)}")
        dtype, (start, size) = kind.make(), found
        if dtype not in ITEM or count * ITEM[dtype] != size:
            raise Refused("has a storage whose size does not match its bytes")
        return Storage(dtype, start, count)

    def _locate(self) -> dict[str, tuple[int, int]]:
        """Member name -> (first byte, size); members must be uncompressed, unique and disjoint."""
        with zipfile.ZipFile(self.path) as archive, self.path.open("rb") as file:
            infos = archive.infolist()
            if not 0 < len(infos) <= _MAX_MEMBERS:
                raise Refused("is a zip with no members, or far too many")
            found: dict[str, tuple[int, int]] = {}
            for info in infos:
                name = info.filename
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise Refused(f"has a compressed or encrypted member {short(name)}")
                if info.file_size != info.compress_size or name in found:
                    raise Refused(f"has a member {short(name)} twice, or of two sizes")
                file.seek(info.header_offset)
                header = file.read(_LOCAL_HEADER)
                if header[:4] != b"PK\x03\x04":
                    raise Refused("is a damaged zip")
                name_length, extra_length = struct.unpack("<HH", header[26:30])
                if file.read(name_length) != name.encode():
                    raise Refused(f"has a member {short(name)} that calls itself something else")
                start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
                found[name] = start, info.file_size
        end = 0
        for name, (start, size) in sorted(found.items(), key=lambda item: item[1]):
            if start < end or start + size > self.size:
                raise Refused(f"has a member {short(name)} that overlaps another or the end")
            end = start + size
        return found
