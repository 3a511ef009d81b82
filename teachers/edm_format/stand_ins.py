"""The names that an EDM pickle may use, and the inert stand-ins for them.

A network is a persistent object: a record of class name, source text and state, nested for every
layer. The official loader executes the source text; here it is ignored. Weights are legacy
torch.save streams inside byte strings, which torch would unpickle without restriction; here they
are read by the same restricted machine, with a table of storage types only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from teachers.edm_format.checkpoint import StoredTensor, contiguous
from teachers.edm_format.machine import Buildable, Machine, Refused, Span, StandIn

#: torch's storage classes by name
DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
ITEM = {"<f2": 2, "<f4": 4, "<f8": 8, "<i8": 8, "<i4": 4, "|u1": 1, "|b1": 1}
_MAGIC, _STREAM = 0x1950A86A20F9469CFC6C, 1001
_VERSION = 6


@dataclass
class Node(Buildable):
    """A module of the pickled network: its class name and its `__dict__`."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """See `Buildable.build`."""
        if type(state) is not dict or self.state:
            raise Refused("is a damaged pickle (a module without a plain state)")
        self.state = state

    def entries(self, name: str) -> dict[str, Any]:
        """One of the dictionaries _parameters, _buffers or _modules of the torch module."""
        value = self.state.get(name, {})
        if type(value) is not dict or any(type(key) is not str for key in value):
            raise Refused(f"has a module whose {name} is no dictionary of names")
        return value


@dataclass
class ScalarType(Buildable):
    """A numpy dtype; only those of plain constructor arguments are allowed."""

    form: str

    def build(self, state: Any) -> None:
        """See `Buildable.build`; the state contains the byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise Refused("has numbers that are not little-endian")


@dataclass(frozen=True)
class Storage:
    """Raw elements in the file, or in `held` if the file stores them as text."""

    dtype: str
    start: int
    stored: int
    held: bytes | None = None


@dataclass(frozen=True)
class BoundMethod:
    """A bound method in the pickle, never called: the schedule of a loss, in ECT's files."""

    name: str


class StandIns:
    """The allow-list for one file, whose path and data tensors and storages refer to."""

    def __init__(self, path: Path, data: Any) -> None:
        self.path, self.data = path, data
        self.storages: dict[Span | bytes, Storage] = {}
        self.table = {key: StandIn(make) for key, make in self._functions().items()}
        self.nested = {
            ("torch", name): StandIn(lambda dtype=dtype: dtype) for name, dtype in DTYPES.items()
        }

    def _functions(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The allow-list: every name that a checkpoint may use, and its stand-in."""
        return {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
            ("collections", "OrderedDict"): new_dict,
            ("dnnlib.util", "EasyDict"): new_dict,
            ("builtins", "set"): _new_set,
            ("__builtin__", "set"): _new_set,  # as protocol 2 calls it
            ("builtins", "getattr"): _bound_method,
            ("__builtin__", "getattr"): _bound_method,
            ("_codecs", "encode"): _encoded,
            ("torch._utils", "_rebuild_parameter"): parameter,
            ("torch._utils", "_rebuild_tensor_v2"): partial(tensor, self.path),
            ("torch.storage", "_load_from_bytes"): self._storage,
            ("torch.nn.modules.container", "ModuleDict"): lambda: Node("ModuleDict"),
            ("numpy", "dtype"): _scalar_type,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy._core.multiarray", "scalar"): self._scalar,
        }

    def _storage(self, source: Any) -> Storage:
        """Read a legacy torch.save stream: five pickles, the number of elements, the elements."""
        if type(source) not in (Span, bytes):
            raise Refused("has a storage that is not made of bytes")
        if source in self.storages:  # shared by two tensors: parse it once
            return self.storages[source]
        held = source if isinstance(source, bytes) else None
        data = self.data if held is None else held
        start, stop = (
            (0, len(data)) if held is not None else (source.start, source.start + source.length)
        )
        stream = Machine(data, start, stop, self.nested, _storage_id)
        magic, protocol, system = stream.load(), stream.load(), stream.load()
        if magic != _MAGIC or protocol != _STREAM or type(system) is not dict:
            raise Refused("has weights that are no torch.save stream")
        if system.get("little_endian") is not True:
            raise Refused("has weights that are not little-endian")
        kept, keys = stream.load(), stream.load()
        if type(kept) is not tuple or type(keys) is not list or keys != [kept[1]]:
            raise Refused("has weights that are no single storage")
        dtype, _, count = kept
        header = stream.take(8)
        (stored,) = struct.unpack("<q", data[header.start : header.start + 8])
        if stored != count or stored * ITEM[dtype] != stop - stream.position:
            raise Refused("has a storage whose size does not match its bytes")
        self.storages[source] = Storage(dtype, stream.position, stored, held)
        return self.storages[source]

    def _scalar(self, kind: Any, value: Any) -> Any:
        if type(kind) is not ScalarType or type(value) not in (Span, bytes):
            raise Refused("has a number in an unknown form")
        raw = value if type(value) is bytes else self._bytes(value)
        return struct.unpack(kind.form, raw)[0]

    def _bytes(self, span: Span) -> bytes:
        return bytes(self.data[span.start : span.start + span.length])


def _persistent_object(record: Any) -> Node:
    if type(record) is not dict or record.get("type") != "class":
        raise Refused("has a persistent object that is no class instance")
    if record.get("version") != _VERSION:
        raise Refused(f"was written by another version of EDM's persistence (not {_VERSION})")
    if type(record.get("class_name")) is not str:
        raise Refused("has a persistent object without a class name")
    node = Node(record["class_name"])  # `module_src` is source code: never looked at
    node.build(record.get("state"))
    return node


def _storage_id(value: Any) -> tuple[str, str, int]:
    """Check a storage's persistent id; return (dtype, key, number of elements)."""
    if type(value) is not tuple or len(value) != 6 or value[0] != "storage" or value[5] is not None:
        raise Refused("has weights with an unknown persistent id")
    _, kind, key, _, count, _ = value
    if type(kind) is not StandIn or type(key) is not str or type(count) is not int:
        raise Refused("has weights with an unknown persistent id")
    return kind.make(), key, count


def tensor(
    path: Path,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> StoredTensor:
    """Stands in for torch's `_rebuild_tensor_v2`: a tensor is a strided view of a storage.

    Raises:
        Refused: the view exceeds the storage, or repeats elements.
    """
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise Refused("has a tensor that is put together wrongly")
    if len(size) != len(stride) or len(size) > 8 or metadata is not None:
        raise Refused("has a tensor that is put together wrongly")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *size, *stride)):
        raise Refused("has a tensor with impossible sizes")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (count > storage.stored or last >= storage.stored):
        raise Refused("has a tensor that reaches past its storage")
    kept = None if stride == contiguous(size) else stride
    if not count:
        offset, kept = 0, None
    where = storage.start, storage.stored, storage.dtype
    return StoredTensor(path, *where, size, offset, kept, held=storage.held)


def parameter(tensor: Any, requires_grad: Any, hooks: Any) -> StoredTensor:
    """Stands in for torch's `_rebuild_parameter`."""
    if not isinstance(tensor, StoredTensor):
        raise Refused("has a parameter that is not a tensor")
    return tensor


def _scalar_type(form: Any, *flags: Any) -> ScalarType:
    forms = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}
    if form not in forms:
        raise Refused("has numbers of an unknown type")
    return ScalarType(forms[form])


def new_dict() -> dict[str, Any]:
    """Stands in for OrderedDict and EasyDict."""
    return {}


def _new_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple) or any(type(item) is not str for item in items):
        raise Refused("has a set of something else than names")
    return set(items)


def _bound_method(owner: Any, name: Any) -> BoundMethod:
    """Stands in for getattr(object, "method"), by which pickle writes a bound method."""
    if not isinstance(owner, Node) or type(name) is not str:
        raise Refused("asks for an attribute of something that is no module (not a bound method)")
    return BoundMethod(name)


def _encoded(text: Any, encoding: Any) -> bytes:
    """Stands in for `_codecs.encode`, by which protocol 2 writes bytes as text."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("has bytes that are written in an unknown form")
    return text.encode("latin1")
