"""Processes that a launcher started for one command: they do their parts, and fail as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from . import console

if TYPE_CHECKING:
    from ..world import World

T = TypeVar("T")


@dataclass(frozen=True)
class Together:
    """This process among all; what one of them cannot do ends all, with its own words said once."""

    world: World | None = None  # None: there is only this one

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.world.rank if self.world else 0

    @property
    def size(self) -> int:
        """How many there are."""
        return self.world.size if self.world else 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def tell(self, value: T) -> T:
        """The leading process's value, in all."""
        return self.world.tell(value) if self.world else value

    def collect(self, value: T) -> list[T]:
        """The values of all processes, in their order, in all."""
        return self.world.collect(value) if self.world else [value]

    def do(self, work: Callable[[], T]) -> T:
        """What the work gives, once it has succeeded in every process."""
        done = work()
        if self.world:
            self.world.meet()
        return done


ALONE = Together()


@contextmanager
def launched_together(device: str, *, quiet: bool) -> Iterator[Together]:
    """This process with those launched beside it by torchrun or accelerate; torch is imported only if there are any."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    with console.loading_torch(quiet=quiet):
        from ..world import join
    with join(device) as (world, _):
        yield Together(world if world.size > 1 else None)
