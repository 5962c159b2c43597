"""Which of a file's networks are taken: averaged weights first, and the raw ones with them; and whether they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, UsageError
from .state_dicts import AVERAGED, Network, as_table, tables


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The weights to take from a file: the averaged ones, if it has any, and the raw ones."""

    ema: Network
    raw: Network | None
    note: str  # which were taken and what else was there, in words; "" where there was no choice

    @property
    def networks(self) -> list[Network]:
        """Both, the averaged weights first."""
        return [self.ema, *([self.raw] if self.raw else [])]

    def check(self, path: Path) -> None:
        """Raise CheckpointError for tensors that are no weights, or that all show the same numbers.

        As copies, which the network needs, the latter are far larger than the file.
        """
        for network in self.networks:
            values = network.tensors.values()
            for name, value in network.tensors.items():
                _check_numbers(name, value, path)
            stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}
            if sum(value.nbytes for value in values) > 2 * sum(stored.values()):
                raise CheckpointError(
                    f"{path} has many tensors of the same numbers", "it is refused: it may be hostile"
                )


def _check_numbers(name: str, value: Tensor, path: Path) -> None:
    if not value.numel():
        raise CheckpointError(
            f"{path} has a tensor without numbers ({name}): it is a part of a checkpoint of several processes",
            "save all of it: with DeepSpeed's ZeRO-3, zero_to_fp32.py does",
        )
    if value.ndim > 1 and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path} has weights of the type {kind} ({name}): it is a quantised network, or another kind of data",
            "get the weights as float32, float16 or bfloat16",
        )


def choose(networks: Sequence[Network], place: str | None = None) -> Choice:
    """The averaged and the raw weights among a file's networks (at least one).

    `place` is where those are that shall be taken, as in `Network.place`. Raises UsageError if none are there.
    """
    if place is not None:
        chosen = next((network for network in networks if network.place == place), None)
        if chosen is None:
            raise UsageError(f"--state-dict: there are no weights at {place!r}", f"it has {_listed(networks)}")
        return Choice(ema=chosen, raw=None, note="")
    ema = networks[0]
    raws = [network for network in networks if not network.is_averaged and network is not ema]
    raw = raws[0] if raws and ema.is_averaged and _same_shapes(ema, raws[0]) else None
    others = [network for network in networks if network not in (ema, raw)]
    taken = f"taken: {ema.place or 'the file itself'}; others: --state-dict KEY"
    note = f"it has the weights {_listed(networks)}; {taken}" if others else ""
    return Choice(ema=ema, raw=raw, note=note)


def average_left_out(tree: Any, networks: Sequence[Network]) -> str:
    """A line on averaged weights in a file of which none could be read as the network's; "" if there are none."""
    if any(network.is_averaged for network in networks):
        return ""
    for keys, table in tables(tree):
        for key, value in table.items():
            if isinstance(key, str) and AVERAGED.search(key) and _has_matrices(value):
                place = ".".join((*keys, key))
                return f"its averaged weights ({place}) are in no form that ditkit knows; taken: the others"
    return ""


def _has_matrices(value: Any) -> bool:
    inner = value if isinstance(value, (list, tuple)) else (as_table(value) or {}).values()
    return any(isinstance(item, Tensor) and item.ndim > 1 for item in inner)


def _listed(networks: Sequence[Network]) -> str:
    return ", ".join(network.place or "the file itself" for network in networks)


def _same_shapes(ema: Network, raw: Network) -> bool:
    """Whether they are of one network; one of them often lacks what is not trained, or what only training needs."""
    names = ema.tensors.keys() & raw.tensors.keys()
    same = all(ema.tensors[name].shape == raw.tensors[name].shape for name in names)
    sizes = sorted((len(ema.tensors), len(raw.tensors)))
    return same and len(names) == sizes[0] and 2 * sizes[0] > sizes[1]
