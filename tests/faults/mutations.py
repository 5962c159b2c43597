"""Damage by chance, the same for the same seed: to bytes, and to trees of JSON or TOML."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

_LENGTHS = (0, 1, 7, 8, 2**16, 2**27, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**62, 10**30, -(10**400), 0.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), "", "x", "../../x", "/etc/passwd", "\0", "\ud800", "ä" * 300, "1", "nan", [], [[]], [1, 2, 3], {},
    {"a": {}},
)  # fmt: skip


def bytes_of(source: Random, content: bytes) -> bytes:
    """One to three mutations of some bytes."""
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        content = source.choice(_KINDS)(source, content)
    return content


def _flip(source: Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(source.choice((1, 1, 1, 2, 8))):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def _flip_early(source: Random, content: bytes) -> bytes:
    """Where headers are."""
    size = min(len(content), source.choice((8, 64, 2000)))
    return _flip(source, content[:size]) + content[size:]


def _truncate(source: Random, content: bytes) -> bytes:
    return content[: source.choice((0, 1, 7, 8, source.randint(0, len(content)), max(0, len(content) - 1)))]


def _insert(source: Random, content: bytes) -> bytes:
    place = source.randint(0, len(content))
    return content[:place] + source.randbytes(source.choice((1, 4, 100, 5000))) + content[place:]


def _splice(source: Random, content: bytes) -> bytes:
    """A piece of it over another place, or cut out."""
    a, b, c = (source.randint(0, len(content)) for _ in range(3))
    piece = content[min(a, b) : max(a, b)]
    return content[:c] + piece + content[c + source.choice((0, len(piece))) :]


def _cut(source: Random, content: bytes) -> bytes:
    a, b = sorted(source.randint(0, len(content)) for _ in range(2))
    return content[:a] + content[b:]


def _blank(source: Random, content: bytes) -> bytes:
    a, b = sorted(source.randint(0, len(content)) for _ in range(2))
    return content[:a] + source.choice((b"\0", b" ", b"\xff", b"9")) * (b - a) + content[b:]


def _length_field(source: Random, content: bytes) -> bytes:
    order = source.choice("<>")
    field = struct.pack(f"{order}Q", source.choice(_LENGTHS))[-8 if order == "<" else source.choice((-8, -4)) :]
    place = source.choice((0, 0, 4, 8, 12))
    return content[:place] + field + content[place + len(field) :]


def _digit(source: Random, content: bytes) -> bytes:
    """One digit of a text by another, a letter or a sign."""
    places = [index for index, byte in enumerate(content[:50_000]) if 48 <= byte <= 57]
    if not places:
        return _flip(source, content)
    place = source.choice(places)
    return (
        content[:place] + source.choice((b"0", b"9", b"-", b"e", b"99999999999999999999", b".")) + content[place + 1 :]
    )


def _line(source: Random, content: bytes) -> bytes:
    """A line twice, moved or gone."""
    lines = content[:100_000].splitlines(keepends=True)
    if not lines:
        return content
    moved = lines.pop(source.randrange(len(lines)))
    for _ in range(source.choice((0, 1, 2))):
        lines.insert(source.randint(0, len(lines)), moved)
    return b"".join(lines) + content[100_000:]


_KINDS = (_flip, _flip_early, _truncate, _insert, _splice, _cut, _blank, _length_field, _digit, _line)


def tree_of(source: Random, tree: Any) -> Any:
    """A copy of a tree of dicts and lists in which one to three values were changed, added, renamed or removed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(source.choice((1, 1, 2, 3))):
        nodes = list(_nodes(tree))
        if not nodes:
            return source.choice(_VALUES)
        holder, key = source.choice(nodes)
        kind = source.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(source.choice(_VALUES))[:20]] = holder.pop(key)
        elif kind == 2 and isinstance(holder, dict):
            holder["surplus"] = source.choice(_VALUES)
        elif kind == 3:
            _, other = source.choice(nodes)
            holder[key] = other
        elif kind == 4 and isinstance(holder[key], (int, float)):
            holder[key] = holder[key] + source.choice((-1, 1, 0.5, 2**40))
        else:
            holder[key] = source.choice(_VALUES)
    return tree


def _nodes(tree: Any):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _nodes(value)


def json_of(source: Random, content: bytes) -> bytes:
    """JSON with another tree, or text that is hardly JSON any more."""
    if source.random() < 0.1:
        return source.choice((b"[" * 200_000, b'{"a":' * 100_000, b"9" * 6000, b"nul", b'{"format":1,"format":2}'))
    return json.dumps(tree_of(source, json.loads(content))).encode("utf-8", "surrogatepass")
