"""A pickle reader that cannot execute code: it interprets opcodes and returns plain values.

The standard library's unpickler calls whatever a file names. Here a name is looked up in a table of
stand-ins given by the caller and is never imported; opcodes that checkpoints do not need are
refused; and long byte strings (the weights) are returned as `Span`s of the file without reading
them. The format is documented in Python's `pickletools`; protocols 2 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HIGHEST_PROTOCOL = 5
#: opcodes in one pickle; published files have a few ten thousand.
MAX_STEPS = 2_000_000

_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_EMPTY: dict[bytes, type[Any]] = {b"}": dict, b"]": list, b")": tuple, b"\x8f": set}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXT = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}
_BYTES = {b"C": "<B", b"B": "<I", b"\x8e": "<Q"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_GET = {b"h": "<B", b"j": "<I"}
_PUT = {b"q": "<B", b"r": "<I"}


class Refused(Exception):
    """A file is refused; the text is the reason, as part of a sentence."""


@dataclass(frozen=True)
class Span:
    """A byte range of the file that was not read: [start, start + length)."""

    start: int
    length: int


@dataclass(frozen=True)
class StandIn:
    """The table's entry for a global name; the file can only call `make`."""

    make: Callable[..., Any]


class Buildable:
    """Base of stand-in objects that accept a state after construction (opcode BUILD)."""

    def build(self, state: Any) -> None:
        """Set the state; allowed once.

        Raises:
            Refused: the state is not of the expected form.
        """
        raise NotImplementedError


def short(text: object) -> str:
    """A name from a file, quoted, in one line and cut to a length fit for an error message."""
    return repr(str(text)[:80])


class Machine:
    """Reads the pickles in [start, stop) of `data`, one per call of `load`.

    Args:
        data: the file, as an object that slices to bytes (a memory map).
        table: (module, name) -> stand-in; every other name is refused.
        persistent: function that resolves persistent ids; if None, they are refused.
    """

    def __init__(
        self,
        data: Any,
        start: int,
        stop: int,
        table: Mapping[tuple[str, str], StandIn],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.position, self.stop = data, start, stop
        self.table, self.persistent = table, persistent

    def load(self) -> Any:
        """Return the value of the next pickle and move `position` to its end.

        Raises:
            Refused: it contains a name or opcode that no checkpoint needs. A damaged file may also
                raise Python's own errors (struct, key, type, unicode), which the caller translates.
        """
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        if self._take(1) != b"\x80" or not 2 <= self._number("<B") <= HIGHEST_PROTOCOL:
            raise Refused("is not a pickle of protocol 2 to 5")
        for _ in range(MAX_STEPS):
            if (opcode := self._take(1)) == b".":
                break
            self._step(opcode)
        else:
            raise Refused("is a pickle far longer than any network's")
        if len(self.stack) != 1 or self.marked:
            raise Refused("is a damaged pickle (it ends inside a value)")
        return self.stack.pop()

    def take(self, count: int) -> Span:
        """Return the `Span` of the next `count` bytes and skip them."""
        if not 0 <= count <= self.stop - self.position:
            raise Refused("ends early")
        self.position += count
        return Span(self.position - count, count)

    def _take(self, count: int) -> bytes:
        span = self.take(count)
        return bytes(self.data[span.start : span.start + count])

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _step(self, opcode: bytes) -> None:
        push, pop = self.stack.append, self.stack.pop
        if opcode in _CONSTANTS:
            push(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            push(_EMPTY[opcode]())
        elif opcode in _NUMBERS:
            push(self._number(_NUMBERS[opcode]))
        elif opcode in _TEXT:
            push(self._take(self._number(_TEXT[opcode])).decode("utf-8", "surrogatepass"))
        elif opcode in _BYTES:
            push(self.take(self._number(_BYTES[opcode])))
        elif opcode in _GET:
            push(self.memo[self._number(_GET[opcode])])
        elif opcode in _PUT:
            self.memo[self._number(_PUT[opcode])] = self.stack[-1]
        elif opcode in _TUPLES:
            size = _TUPLES[opcode]
            items = tuple(self.stack[len(self.stack) - size :])
            if len(items) != size:
                raise Refused("is a damaged pickle")
            del self.stack[-size:]
            push(items)
        elif opcode == b"0":  # POP: of what was memoised, in recursive values
            pop()
        elif opcode == b"\x94":  # MEMOIZE
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode == b"\x95":  # FRAME: only a hint for buffering
            self._take(8)
        elif opcode == b"\x8a":  # LONG1
            push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
        elif opcode == b"(":  # MARK
            self.marked.append(self.stack)
            self.stack = []
        elif opcode == b"t":  # TUPLE
            items = tuple(self._since_mark())
            self.stack.append(items)
        elif opcode in b"ea\x90us":
            self._fill(opcode)
        elif opcode in b"c\x93":
            self._global(opcode)
        elif opcode in b"R\x81":  # REDUCE, NEWOBJ: both only ever call a stand-in
            arguments, target = pop(), pop()
            if type(target) is not StandIn or type(arguments) is not tuple:
                raise Refused("calls something that is not a function of a checkpoint")
            push(target.make(*arguments))
        elif opcode == b"b":  # BUILD
            state, target = pop(), self.stack[-1]
            if isinstance(target, Buildable):
                target.build(state)
            elif type(target) is not dict:  # a dict's: the `_metadata` of torch's state dicts
                raise Refused("sets the state of an object that has none")
        elif opcode == b"Q" and self.persistent is not None:  # BINPERSID
            push(self.persistent(pop()))
        else:
            raise Refused(f"uses pickle opcode {opcode!r}, which no network's file needs")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _fill(self, opcode: bytes) -> None:
        """Execute the opcodes APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS."""
        if opcode in b"e\x90u":
            items = self._since_mark()
        else:
            count = 2 if opcode == b"s" else 1
            items = [self.stack.pop() for _ in range(count)][::-1]
        target = self.stack[-1]
        kind = {b"e": list, b"a": list, b"\x90": set}.get(opcode, dict)
        if type(target) is not kind:
            raise Refused("is a damaged pickle (it fills something that is no container)")
        if kind is list:
            target.extend(items)
            return
        keys = items if kind is set else items[::2]
        if any(type(key) not in (str, int) for key in keys):
            raise Refused("has a dictionary whose keys are neither strings nor numbers")
        if kind is set:
            target.update(items)
        else:
            target.update(zip(keys, items[1::2], strict=True))

    def _global(self, opcode: bytes) -> None:
        if opcode == b"c":
            module, name = self._line(), self._line()
        else:
            name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str or (module, name) not in self.table:
            raise Refused(
                f"names {short(f'{module}.{name}')}, which no network's file needs and loading"
                " could run"
            )
        self.stack.append(self.table[module, name])

    def _line(self) -> str:
        ahead = bytes(self.data[self.position : min(self.position + 256, self.stop)])
        end = ahead.find(b"\n")
        if end < 0:
            raise Refused("is a damaged pickle (a name without an end)")
        self.position += end + 1
        return ahead[:end].decode("utf-8")
