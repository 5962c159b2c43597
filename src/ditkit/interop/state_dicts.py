"""Finds the network in what a checkpoint holds, whatever is wrapped around it.

Training scripts and wrappers put state dicts under keys ("ema", "model_state_dict", "module", Lightning's "state_dict")
and a prefix before every name ("module.", "model.", "_orig_mod."). Of these words only those for averages mean anything
here. A network is found by its mark, the full name of one of its tensors: wherever in the tree a name ends with it, all
names of that table with the same beginning are the network's, and the beginning is the prefix. Names of what torch
wraps around a layer are taken out of the middle of names. Objects of other programs count as tables of their
attributes, and whole modules (torch.save(model)) as their state dicts.

`find_networks` returns all of them, those of averaged weights first (choice.py picks the two to take); `metadata` is
everything else in the file: its arguments, settings and step, as plain data.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from .unpickle import Unread

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])", re.IGNORECASE)
# keys of tables that have the names of weights
NO_WEIGHTS = re.compile(r"exp_avg|momentum|optim(izer)?(?![a-z])|grads?(?![a-z])", re.IGNORECASE)
_DEEPEST = 16  # containers in each other
_CONTAINERS = (Mapping, Unread, list, tuple)
_MOST_NETWORKS = 32  # a hostile file may have as many as it likes
_LONGEST = 64  # values of a list in which state dicts are looked for
_MOST_NAMES = 100_000  # tensors of a module
_WHERE_VALUES_ARE = ("_content", "_val", "_fields")  # of the objects of OmegaConf and ml_collections


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors do not compare as a whole
class Network:
    """A network's tensors by name without the prefix, and where in the file they are."""

    tensors: Mapping[str, Tensor]
    keys: tuple[str, ...]  # of the tables around them, from the outside: ("state_dict",)
    prefix: str  # "model.module.", or ""
    is_averaged: bool  # the moving average (EMA) of weights, as keys or prefix say

    @property
    def place(self) -> str:
        """Where it is, as a reader would look it up: state_dict.ema_model; "" for the whole of the file."""
        return ".".join([*self.keys, *([self.prefix.removesuffix(".")] if self.prefix else [])])


def find_networks(tree: Any, mark: str) -> list[Network]:
    """Every network in the content of a file that has a tensor of this name, those of averaged weights first."""
    every = (network for keys, table in tables(tree) for network in _networks(keys, table, mark))
    networks = list(islice(every, _MOST_NETWORKS))
    if networks and not any(network.is_averaged for network in networks):
        networks += _nameless(tree, networks[0], mark)
    return sorted(networks, key=lambda network: not network.is_averaged)


def metadata(tree: Any) -> dict[str, Any]:
    """What a checkpoint says beside its tensors, as plain data: {"args": {"model": "DiT-S/4"}, "step": 400000}.

    Tables and objects with attributes become dictionaries, tensors of a single number that number; other tensors and
    what cannot be plain data are left out.
    """
    plain = _plain(tree, 0, {})
    return plain if isinstance(plain, dict) else {}


def stored_betas(tree: Any) -> list[float] | None:
    """The noise schedule that a wrapper around the network keeps as a tensor; None where there is none."""
    for _, table in tables(tree):
        for name, value in table.items():
            if str(name).rpartition(".")[2] == "betas" and getattr(value, "ndim", 0) == 1 and len(value) > 1:
                return value.double().tolist()
    return None


def _networks(keys: tuple[str, ...], table: Mapping[Any, Any], mark: str) -> Iterator[Network]:
    """The networks of one table; a prefix that begins with another network's belongs to it alone."""
    named = ((name, value) for name, value in table.items() if isinstance(name, str) and isinstance(value, Tensor))
    tensors = {_unwrapped(name): value for name, value in named}
    ends = [name for name in tensors if name == mark or name.endswith(f".{mark}")]
    if any(map(NO_WEIGHTS.search, keys)):
        return
    prefixes = sorted((name.removesuffix(mark) for name in ends), key=len, reverse=True)[:_MOST_NETWORKS]
    by_prefix = any(map(AVERAGED.search, prefixes))  # as in ema-pytorch's table "ema", which has both
    words = () if by_prefix else keys
    for prefix in prefixes:
        own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        is_averaged = "n_averaged" in table or any(map(AVERAGED.search, (*words, prefix)))
        yield Network(tensors=own, keys=keys, prefix=prefix, is_averaged=is_averaged)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def tables(tree: Any) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every table in a tree and the keys that lead to it, the outer ones first; what is in one is looked at once."""
    pending: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    visited = set[int]()
    while pending:
        keys, value = pending.popleft()
        table = as_table(value)
        if table is None:
            continue
        yield keys, table
        if id(value) not in visited and len(keys) < _DEEPEST:
            visited.add(id(value))
            pending += [((*keys, str(key)), inner) for key, inner in table.items() if isinstance(inner, _CONTAINERS)]


def as_table(value: Any) -> Mapping[Any, Any] | None:
    """A value as a table; None for what has no names."""
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in value):
            return dict(value)  # of named_parameters()
        return dict(enumerate(value)) if len(value) <= _LONGEST else None
    if not isinstance(value, Unread):
        return value if isinstance(value, Mapping) else None
    attributes = value.attributes()
    return _state_dict(attributes) if {"_parameters", "_modules"} <= attributes.keys() else attributes


def _state_dict(module: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The parameters and buffers of a module that was saved as a whole, from its attributes."""
    tensors = dict[str, Tensor]()
    pending = [("", module)]
    while pending and len(tensors) + len(pending) < _MOST_NAMES:
        prefix, attributes = pending.pop()
        for group in ("_parameters", "_buffers"):
            pairs = as_table(attributes.get(group)) or {}
            tensors |= {f"{prefix}{name}": value for name, value in pairs.items() if isinstance(value, Tensor)}
        for name, inner in (as_table(attributes.get("_modules")) or {}).items():
            if isinstance(inner, Unread):
                pending.append((f"{prefix}{name}.", inner.attributes()))
    return tensors


def _nameless(tree: Any, raw: Network, mark: str) -> Iterator[Network]:
    """Averages of a network's weights that say no names: in the order of its own, or under names without dots."""
    shapes = {name: value.shape for name, value in raw.tensors.items()}
    trained = {name: shape for name, shape in shapes.items() if name != "pos_embed"}
    short = {name.replace(".", ""): name for name in trained}
    for keys, table in tables(tree):
        values = table.get("shadow_params")
        if isinstance(values, (list, tuple)) and all(isinstance(value, Tensor) for value in values):
            for names in (shapes, trained):
                if [value.shape for value in values] == list(names.values()):
                    named = dict(zip(names, values, strict=True))
                    yield Network(tensors=named, keys=(*keys, "shadow_params"), prefix="", is_averaged=True)
                    break
        if table:
            yield from _without_dots(keys, table, short, mark.replace(".", ""))


def _without_dots(
    keys: tuple[str, ...], table: Mapping[Any, Any], short: Mapping[str, str], mark: str
) -> Iterator[Network]:
    """An average as LitEma of latent-diffusion keeps it: model_ema.blocks0attnqkvweight."""
    ends = [key for key in table if isinstance(key, str) and key.endswith(mark)]
    for prefix in (key.removesuffix(mark) for key in ends[:_MOST_NETWORKS]):
        tensors = {name: table.get(f"{prefix}{key}") for key, name in short.items()}
        own = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
        if len(own) == len(short):
            yield Network(tensors=own, keys=keys, prefix=prefix, is_averaged=True)


def _plain(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """A value as plain data; None for what has none. `done` holds containers by their id: they may hold each other."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    if id(value) in done or depth > _DEEPEST:
        return done.get(id(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        items = done[id(value)] = []
        items += [_plain(item, depth + 1, done) for item in value]
        return items
    if isinstance(value, Unread):
        return _plain_object(value, depth, done)
    pairs = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if pairs is None:
        return None
    table = done[id(value)] = {}
    table |= {str(key): _plain(item, depth + 1, done) for key, item in pairs.items() if not _is_large(item)}
    return table


def _plain_object(value: Unread, depth: int, done: dict[int, Any]) -> Any:
    """An object of another program's: its attributes, what it contains, or the single value that it is made of."""
    attributes = value.attributes()
    for name in _WHERE_VALUES_ARE:
        if name in attributes:
            return _plain(attributes[name], depth + 1, done)
    if attributes:
        return done.setdefault(id(value), _plain(attributes, depth, done))
    if value.values:
        return _plain(value.values, depth + 1, done)
    single = value.arguments[0] if len(value.arguments) == 1 else None  # of an enumeration
    return single if isinstance(single, (str, int, float)) else None


def _is_large(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() != 1
