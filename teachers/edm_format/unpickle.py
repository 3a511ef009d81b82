"""EDM's pickle layout, read through stand-ins.

A file is a dictionary whose `ema` is a persistent object: a record of class name, source text and
state, nested for every layer. The official loader executes the source text; here it is passed
over. Weights are legacy torch.save streams inside byte strings, read by the same refusing machine.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.api import ConfigError
from teachers.edm_format.checkpoint import MEND, Checkpoint, StoredTensor, contiguous, refusal
from teachers.edm_format.config import INNER, NetworkConfig
from teachers.edm_format.infer import infer_arguments
from teachers.edm_format.machine import Buildable, Machine, Refused, Span, StandIn, short

_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_ITEM = {"<f2": 2, "<f4": 4, "<f8": 8, "<i8": 8, "<i4": 4, "|u1": 1, "|b1": 1}
_MAGIC, _STREAM = 0x1950A86A20F9469CFC6C, 1001
_VERSION = 6
_MAX_DEPTH, _MAX_NODES = 16, 100_000
HOSTILE = (
    "it was not loaded and nothing in it was run, but do not open it with other tools; " + MEND
)


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
        """One of torch's own dictionaries: _parameters, _buffers or _modules."""
        value = self.state.get(name, {})
        if type(value) is not dict or any(type(key) is not str for key in value):
            raise Refused(f"has a module whose {name} is no dictionary of names")
        return value


@dataclass
class ScalarType(Buildable):
    """A numpy dtype; only the plain ones that constructor arguments are made of."""

    form: str

    def build(self, state: Any) -> None:
        """See `Buildable.build`; the state names the byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise Refused("has numbers that are not little-endian")


@dataclass(frozen=True)
class Storage:
    """Raw elements in the file."""

    dtype: str
    start: int
    stored: int


def read_pickle(path: Path) -> Checkpoint:
    """Open an EDM .pkl without running, or yet reading the weights of, anything in it.

    Raises:
        ConfigError: the file is hostile, damaged, foreign, or of a network that is not known here.
    """
    try:
        if path.stat().st_size == 0:
            raise Refused("is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).checkpoint()
    except Refused as reason:
        mend = HOSTILE if "could run" in str(reason) else MEND
        raise refusal(path, str(reason), mend) from None
    except ConfigError:
        raise
    except OSError as error:
        raise refusal(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    except Exception as error:  # whatever damage does: no traceback may come from a bad file
        problem = f"is damaged, or no EDM checkpoint ({type(error).__name__})"
        raise refusal(path, problem) from None


class _Reader:
    """One file being read: the stand-ins, and what they need to know of it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.storages: dict[Span, Storage] = {}
        self.table = {key: StandIn(make) for key, make in self._functions().items()}
        self.nested = {
            ("torch", name): StandIn(lambda dtype=dtype: dtype) for name, dtype in _DTYPES.items()
        }

    def _functions(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The allow-list: every name a checkpoint may use, and what stands in for it."""
        return {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
            ("collections", "OrderedDict"): _new_dict,
            ("dnnlib.util", "EasyDict"): _new_dict,
            ("builtins", "set"): _new_set,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.storage", "_load_from_bytes"): self._storage,
            ("torch.nn.modules.container", "ModuleDict"): lambda: Node("ModuleDict"),
            ("numpy", "dtype"): _scalar_type,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy._core.multiarray", "scalar"): self._scalar,
        }

    def checkpoint(self) -> Checkpoint:
        top = Machine(self.data, 0, len(self.data), self.table).load()
        if type(top) is not dict or "ema" not in top:
            raise Refused("has no entry 'ema', so it is no EDM checkpoint")
        net = top["ema"]
        if not isinstance(net, Node) or net.class_name not in INNER:
            known = ", ".join(INNER)
            raise Refused(f"has an 'ema' that is no network of a known class (known: {known})")
        tensors = self._state_dict(net)
        arguments, notes = self._arguments(net, tensors)
        try:
            config, unknown = NetworkConfig.from_arguments(net.class_name, arguments)
        except ValueError as error:
            raise Refused(f"describes a network that cannot be built ({error})") from None
        if unknown:
            listed = ", ".join(short(name) for name in unknown[:8])
            notes.append(f"unknown constructor arguments were ignored: {listed}")
        return Checkpoint(self.path, config, tensors, tuple(notes))

    def _arguments(
        self, net: Node, tensors: dict[str, StoredTensor]
    ) -> tuple[dict[str, Any], list[str]]:
        recorded = net.state.get("_init_kwargs")
        if recorded is not None:
            positional = net.state.get("_init_args", ())
            if type(recorded) is not dict or len(recorded) > 64 or positional != ():
                raise Refused("records constructor arguments in a form EDM does not write")
            return {str(key): plain(value) for key, value in recorded.items()}, []
        fields = {*NetworkConfig.model_fields, *INNER[net.class_name].model_fields} - {"inner"}
        state = {k: plain(v) for k, v in net.state.items() if k in fields and k != "model"}
        arguments = infer_arguments({key: value.shape for key, value in tensors.items()})
        note = "records no constructor arguments: the network was inferred from its tensors, and"
        return {**arguments, **state}, [
            f"{note} dropout and label_dropout are set to their default"
        ]

    def _state_dict(self, net: Node) -> dict[str, StoredTensor]:
        """State-dict keys and tensors in torch's order: parameters, buffers, then children."""
        found: dict[str, StoredTensor] = {}
        total, visited = 0, 0
        for prefix, node in _walk(net, "", 0):
            visited += 1 + sum(
                len(node.entries(k)) for k in ("_parameters", "_buffers", "_modules")
            )
            if visited > _MAX_NODES:
                raise Refused("nests far more modules than any EDM network has")
            hidden = node.state.get("_non_persistent_buffers_set", set())
            for kind in ("_parameters", "_buffers"):
                for name, value in node.entries(kind).items():
                    if value is None or (kind == "_buffers" and name in hidden):
                        continue
                    if not isinstance(value, StoredTensor):
                        raise Refused(f"has {short(prefix + name)}, which is not a tensor")
                    found[prefix + name] = value
                    total += value.count * _ITEM[value.dtype]
                    if total > len(self.data):
                        raise Refused("claims more weights than the file holds")
        return found

    def _tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        metadata: Any = None,
    ) -> StoredTensor:
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
        return StoredTensor(
            self.path, storage.start, storage.stored, storage.dtype, size, offset, kept
        )

    def _storage(self, span: Any) -> Storage:
        """A legacy torch.save stream: five pickles, the number of elements, the elements."""
        if type(span) is not Span:
            raise Refused("has a storage that is not made of bytes")
        if span in self.storages:  # shared by two tensors: parse it once
            return self.storages[span]
        stop = span.start + span.length
        stream = Machine(self.data, span.start, stop, self.nested, _storage_id)
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
        (stored,) = struct.unpack("<q", self.data[header.start : header.start + 8])
        if stored != count or stored * _ITEM[dtype] != stop - stream.position:
            raise Refused("has a storage whose size does not match its bytes")
        self.storages[span] = Storage(dtype, stream.position, stored)
        return self.storages[span]

    def _scalar(self, kind: Any, value: Any) -> Any:
        if type(kind) is not ScalarType or type(value) is not Span:
            raise Refused("has a number in an unknown form")
        raw = self.data[value.start : value.start + value.length]
        return struct.unpack(kind.form, raw)[0]


def plain(value: Any, depth: int = 0) -> Any:
    """Return a constructor argument if it is plain data, refusing anything else."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth < 2 and type(value) in (list, tuple) and len(value) <= 64:
        return [plain(item, depth + 1) for item in value]
    if depth < 2 and type(value) is dict and len(value) <= 64:
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    raise Refused(f"has a constructor argument of type {type(value).__name__}")


def _walk(node: Node, prefix: str, depth: int) -> Iterator[tuple[str, Node]]:
    if depth > _MAX_DEPTH:
        raise Refused("nests its modules deeper than any EDM network does")
    yield prefix, node
    for name, child in node.entries("_modules").items():
        if child is None:
            continue
        if not isinstance(child, Node):
            raise Refused(f"has {short(prefix + name)}, which is not a module")
        yield from _walk(child, f"{prefix}{name}.", depth + 1)


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


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise Refused("has a parameter that is not a tensor")
    return tensor


def _scalar_type(form: Any, *flags: Any) -> ScalarType:
    forms = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}
    if form not in forms:
        raise Refused("has numbers of an unknown type")
    return ScalarType(forms[form])


def _new_dict() -> dict[str, Any]:
    return {}


def _new_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple) or any(type(item) is not str for item in items):
        raise Refused("has a set of something else than names")
    return set(items)
