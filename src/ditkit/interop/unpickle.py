"""Reads pickles as data: an interpreter of their instructions that imports nothing and calls nothing they name.

A pickle is a small program for a stack machine, and two of its instructions import whatever it names and call that;
this is how a hostile file runs code. Here both only make a record, `Unread`, of the name and of what it was given.
The few names that a caller passes as `known` (tensors), and those of plain data below, become what they stand for, by
functions of ours. So a checkpoint may hold anything at all beside its tensors, and reading it stays harmless.
`pickletools` cuts the bytes into instructions; how many of them there may be, what may be a key of a table, and where
values are remembered is bounded, so that a hostile file cannot take all time and memory either.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

Known = Mapping[str, Callable[..., Any]]

_MOST = 5_000_000  # instructions: a loss for each of millions of steps, a hundred for each tensor
_LARGEST_KEY = 1 << 53  # whole numbers beyond it could be chosen so that a table takes hours to fill
_MOST_REMEMBERED = 1 << 32
_MOST_COPIED = 1 << 30  # bytes
_NOTHING: Known = {}
_PATH = re.compile(r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path")
_NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i"}
_NUMBERS |= {"u4": "I", "i8": "q", "u8": "Q"}  # of NumPy, as `struct` calls them


class Unread:
    """An object of another program's: its full name, and what it was made of, none of it imported or called."""

    __slots__ = ("arguments", "items", "name", "state", "values")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        self.name, self.arguments = name, arguments
        self.state: Any = None  # its attributes
        self.items: dict[Any, Any] | None = None  # what was put into it as into a dict
        self.values: list[Any] | None = None  # what was put into it as into a list

    def filled(self, content: Any) -> Unread:
        """Itself, with the content of a dict or a list that it is a kind of."""
        self.items = content if isinstance(content, dict) else None
        self.values = content if isinstance(content, list) else None
        return self

    def attributes(self) -> dict[Any, Any]:
        """Its attributes and what it holds as a dict, by name."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)  # those of __slots__ are apart
        merged: dict[Any, Any] = {}
        for state in (*states, self.items):
            merged |= state if isinstance(state, dict) else {}
        return merged


class _Name(str):
    """The full name of something that a pickle would import."""

    __slots__ = ()


class _Mark(list[Any]):
    """The stack below a mark."""


def load(file: Any, known: Known = _NOTHING, persistent: Callable[[Any], Any] = lambda key: None) -> Any:
    """What the pickle holds that begins where `file` stands, which is left behind its end.

    Args:
        file: bytes with read, readline and tell that never give more than there are (io.BytesIO, mmap).
        known: functions by the full name of what they stand for: they are called with its arguments.
        persistent: what stands for an object that is kept outside of the pickle, by its key.

    Raises ValueError for what is no pickle or too large. Names that nothing stands for become `Unread`.
    """
    machine = _Machine({**_PLAIN, **known}, persistent)
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        if count >= _MOST:
            raise ValueError(f"its plain data are more than {_MOST:,} parts")
        try:
            machine.step(code.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged at {code.name} ({type(error).__name__})") from None
    if len(machine.stack) != 1 or machine.marks:
        raise ValueError("it ends in the middle")
    return machine.stack.pop()


class _Machine:
    """The stack, what is remembered for later, and a method for each kind of instruction."""

    def __init__(self, known: Known, persistent: Callable[[Any], Any]):
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # bytes, about

    def step(self, code: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if code in _PUSHES:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code]())
        elif code in _REMEMBERS:
            self.remember(argument)
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_Name(argument.replace(" ", ".") if argument else ".".join(self.pop(2))))
        elif code in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            function, arguments = self.pop(3)[:2] if code == "NEWOBJ_EX" else self.pop(2)
            stack.append(self.made(function, arguments))
        elif code == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Unread):
                stack[-1].state = state
        elif code not in ("PROTO", "FRAME", "STOP"):
            getattr(self, f"do_{code.lower()}", self.refuse)(argument)

    def pop(self, count: int) -> list[Any]:
        """The topmost values, in the order in which they came."""
        values = self.stack[-count:]
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list[Any]:
        """The values since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def made(self, function: Any, arguments: Any) -> Any:
        """What a call of something by name stands for."""
        arguments = arguments if isinstance(arguments, tuple) else ()
        self.copied += sum(_size(argument) for argument in arguments)
        if self.copied > _MOST_COPIED:
            raise ValueError("it makes the same data again and again")
        if isinstance(function, _Name) and function in self.known:
            return self.known[function](*arguments)
        name = function if isinstance(function, _Name) else getattr(function, "name", "an object")
        if _PATH.fullmatch(name) and all(isinstance(part, str) for part in arguments):
            return "/".join(arguments).replace("//", "/")
        if name in ("copy_reg._reconstructor", "copyreg._reconstructor") and len(arguments) == 3:  # of protocols 0, 1
            return Unread(str(arguments[0])).filled(arguments[2])
        return Unread(str(name), arguments)

    def remember(self, place: int | None) -> None:
        """Keep the topmost value for later."""
        place = len(self.memo) if place is None else place
        if not 0 <= place < _MOST_REMEMBERED:
            raise ValueError("it remembers values in places that no writer uses")
        self.memo[place] = self.stack[-1]

    def refuse(self, argument: Any) -> None:
        raise ValueError("it has parts that lie outside of the file")

    def do_mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def do_pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def do_pop_mark(self, _: None) -> None:
        self.pop_to_mark()

    def do_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def do_list(self, _: None) -> None:
        values = self.pop_to_mark()
        self.stack.append(values)

    do_frozenset = do_list  # its values need not be hashed

    def do_tuple(self, _: None) -> None:
        values = tuple(self.pop_to_mark())
        self.stack.append(values)

    def do_tuple1(self, _: None) -> None:
        self.stack.append(tuple(self.pop(1)))

    def do_tuple2(self, _: None) -> None:
        self.stack.append(tuple(self.pop(2)))

    def do_tuple3(self, _: None) -> None:
        self.stack.append(tuple(self.pop(3)))

    def do_dict(self, _: None) -> None:
        values = self.pop_to_mark()
        self.stack.append({})
        self.put_items(values)

    def do_setitem(self, _: None) -> None:
        self.put_items(self.pop(2))

    def do_setitems(self, _: None) -> None:
        self.put_items(self.pop_to_mark())

    def do_append(self, _: None) -> None:
        self.put_values(self.pop(1))

    def do_appends(self, _: None) -> None:
        self.put_values(self.pop_to_mark())

    do_additems = do_appends

    def do_persid(self, key: str) -> None:
        self.stack.append(self.persistent(key))

    def do_binpersid(self, _: None) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def do_inst(self, name: str) -> None:
        made = self.made(_Name(name.replace(" ", ".")), tuple(self.pop_to_mark()))
        self.stack.append(made)

    def do_obj(self, _: None) -> None:
        function, *arguments = self.pop_to_mark()
        self.stack.append(self.made(function, tuple(arguments)))

    def put_items(self, values: list[Any]) -> None:
        """Keys and values by turns into the topmost table."""
        target = self.stack[-1]
        if isinstance(target, Unread):
            target.items = target.items or {}
            target = target.items
        if isinstance(target, dict):  # a list, of which some writers set items, cannot be one of tensors by name
            target.update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def put_values(self, values: list[Any]) -> None:
        """Values to the end of the topmost list."""
        target = self.stack[-1]
        if isinstance(target, Unread):
            target.values = target.values or []
            target = target.values
        target.extend(values)


def _key(value: Any) -> Any:
    """A key of a table. What could take long to hash or to compare is replaced by an object that equals itself only."""
    if value is None or isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (int, float)) and abs(value) < _LARGEST_KEY:
        return value
    return Unread("key", (value,))


def _size(value: Any) -> int:
    """About how many bytes a copy of a value takes."""
    return len(value) if isinstance(value, (str, bytes)) else 16 * len(value) if isinstance(value, (list, dict)) else 0


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, which pickles of Python 2's protocols hold as text."""
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise ValueError(f"it has text in {encoding[:20]!r}")
    return text.encode(encoding)


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    return {_key(pair[0]): pair[1] for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2}


def _as_list(values: Any = (), *_: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else []


def _numpy_scalar(dtype: Any = None, content: Any = b"") -> Any:
    """A single number or text of NumPy's."""
    described = dtype.arguments if isinstance(dtype, Unread) else ()
    kind = described[0] if described and isinstance(described[0], str) else ""
    order = dtype.state[1] if isinstance(dtype, Unread) and isinstance(dtype.state, tuple) else "<"
    order = order if order in ("<", ">") else "<"
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1", "replace")
    if not isinstance(content, bytes):
        return Unread("numpy.scalar", (dtype, content))
    if kind[:1] == "U":
        return content.decode(f"utf-32-{'l' if order == '<' else 'b'}e", "replace").rstrip("\0")
    form = f"{order}{_NUMBERS.get(kind, '')}"
    if len(form) == 2 and struct.calcsize(form) == len(content):
        return struct.unpack(form, content)[0]
    return Unread("numpy.scalar", (dtype, content))


_PUSHES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
_PUSHES |= {"SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE"}
_PUSHES |= {"SHORT_BINUNICODE", "BINUNICODE8"}
_REMEMBERS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_PLAIN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _ordered,
    "collections.deque": _as_list,
    "_codecs.encode": _encoded,
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"{module}.{name}": _as_list for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "list")},
    **{f"{module}.dict": _ordered for module in ("builtins", "__builtin__")},
}
