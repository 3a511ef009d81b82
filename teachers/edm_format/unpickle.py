"""EDM's published .pkl files: a dictionary whose `ema` is the network, as nested modules."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness.api import ConfigError
from teachers.edm_format.checkpoint import Checkpoint, StoredTensor, again, refusal
from teachers.edm_format.config import INNER, NetworkConfig
from teachers.edm_format.infer import infer_arguments
from teachers.edm_format.kinds import hostile, refuse_other_kinds
from teachers.edm_format.machine import Machine, Refused, short
from teachers.edm_format.stand_ins import ITEM, Node, StandIns

_MAX_DEPTH, _MAX_NODES = 16, 100_000
#: class name of a published network -> whose arguments it has: of teachers, its own
TEACHERS = {name: name for name in INNER}
#: class names of consistency models in such pickles
STUDENTS = ("ECMPrecond", "CMPrecond", "CTPrecond", "iCTPrecond", "ICTPrecond")
T = TypeVar("T")
EXPECTED = "a pickle as EDM's training writes it (network-snapshot-*.pkl, edm-*.pkl)"


def read_pickle(path: Path, classes: Mapping[str, str] = TEACHERS) -> Checkpoint:
    """Open an EDM .pkl without executing anything in it; weights are not read yet.

    Args:
        path: the file.
        classes: class name of the network in the file -> the key of `INNER` with its arguments.

    Raises:
        ConfigError: the file is malicious, damaged, of another kind, or has an unknown network.
    """
    return _opened(path, lambda reader: reader.checkpoint(classes))


def class_of(path: Path) -> str:
    """The class name of the network in an EDM .pkl.

    Raises:
        ConfigError: the file is malicious, damaged, or not an EDM pickle.
    """
    return _opened(path, lambda reader: reader.network().class_name)


def _opened(path: Path, use: Callable[[_Reader], T]) -> T:
    try:
        refuse_other_kinds(path, EXPECTED)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return use(_Reader(path, data))
    except Refused as reason:
        mend = hostile(again(path)) if "could run" in str(reason) else again(path)
        if "a student" in str(reason):
            mend = "load it with load_student"
        raise refusal(path, str(reason), mend) from None
    except ConfigError:
        raise
    except OSError as error:
        raise refusal(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    except Exception as error:  # whatever damage does: no traceback may come from a bad file
        problem = f"is damaged, or not {EXPECTED} ({type(error).__name__})"
        raise refusal(path, problem, again(path)) from None


class _Reader:
    """One file being read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data

    def network(self) -> Node:
        """The record of the network, entry `ema` of the file."""
        top = Machine(self.data, 0, len(self.data), StandIns(self.path, self.data).table).load()
        if type(top) is not dict or "ema" not in top:
            names = ", ".join(short(name) for name in list(top)[:4]) if type(top) is dict else ""
            instead = f" but {names}" if names else ""
            raise Refused(f"has no entry 'ema'{instead}: it is no snapshot of a network by EDM")
        if not isinstance(top["ema"], Node):
            raise Refused("has an 'ema' that is no network of a known class")
        return top["ema"]

    def checkpoint(self, classes: Mapping[str, str]) -> Checkpoint:
        """Configuration and tensors of the network."""
        net = self.network()
        if net.class_name not in classes:
            name = net.class_name
            if name in STUDENTS:
                raise Refused(f"is a student ({name}), a consistency model, and no teacher")
            known = ", ".join(classes)
            raise Refused(f"has an 'ema' of class {short(name)}, no known class (known: {known})")
        class_name = classes[net.class_name]
        tensors = self._state_dict(net)
        arguments, notes = self._arguments(net, class_name, tensors)
        try:
            config, unknown = NetworkConfig.from_arguments(class_name, arguments)
        except ValueError as error:
            raise Refused(f"describes a network that cannot be built ({error})") from None
        if unknown:
            listed = ", ".join(short(name) for name in unknown[:8])
            notes.append(f"unknown constructor arguments were ignored: {listed}")
        return Checkpoint(self.path, config, tensors, tuple(notes))

    def _arguments(
        self, net: Node, class_name: str, tensors: dict[str, StoredTensor]
    ) -> tuple[dict[str, Any], list[str]]:
        recorded = net.state.get("_init_kwargs")
        if recorded is not None:
            positional = net.state.get("_init_args", ())
            if type(recorded) is not dict or len(recorded) > 64 or positional != ():
                raise Refused("records constructor arguments in a form EDM does not write")
            given = {str(key): plain(value) for key, value in recorded.items()}
            if net.class_name not in INNER:  # its defaults are its own, and kept among its state
                own = {*INNER[class_name].model_fields} & {*net.state}
                given = {name: plain(net.state[name]) for name in own} | given
            return given, []
        fields = {*NetworkConfig.model_fields, *INNER[class_name].model_fields} - {"inner"}
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
                    total += value.count * ITEM[value.dtype]
                    if total > len(self.data):
                        raise Refused("claims more weights than the file holds")
        return found


def plain(value: Any, depth: int = 0) -> Any:
    """Return a constructor argument if it is plain data.

    Raises:
        Refused: it is anything else.
    """
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
