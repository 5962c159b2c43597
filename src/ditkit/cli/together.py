"""Processes that a launcher started for one command: they do their parts, and fail as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import typer

from . import console

if TYPE_CHECKING:
    from ..world import World

T = TypeVar("T")


@dataclass(frozen=True)
class Together:
    """This process among all; what one of them cannot do ends all, with its own words said once."""

    world: World | None = None  # None: there is only this one
    debug: bool = False

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

    def do(self, work: Callable[[], T]) -> T:
        """What the work gives, once it has succeeded in every process. Raises Exit in all where it fails in one."""
        return self._done(work, lambda result: True)[0]

    def collect(self, work: Callable[[], T]) -> list[T]:
        """What the work gives in each process, in their order, in all. Fails like `do`."""
        return self._done(work, lambda result: result)[1]

    def _done(self, work: Callable[[], T], told: Callable[[T], object]) -> tuple[T, list[T]]:
        if self.world is None:
            result = work()
            return result, [result]
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        outcomes = self.world.collect((failure is None, told(result) if failure is None else None))
        failed = [rank for rank, (good, _) in enumerate(outcomes) if not good]
        if not failed:
            return result, [value for _, value in outcomes]
        speaks = failure is not None and self.rank == failed[0]
        code = console.report(failure, debug=self.debug) if speaks else 0
        # Nobody leaves before the words are out: the launcher ends the others as soon as one has left.
        raise typer.Exit(max(self.world.collect(code)))


ALONE = Together()


@contextmanager
def launched_together(device: str, *, quiet: bool, debug: bool) -> Iterator[Together]:
    """This process with those launched beside it by torchrun or accelerate; torch is imported only if there are any."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    with console.loading_torch(quiet=quiet):
        from ..device import find_device
        from ..world import join
    with join(find_device(device)) as world:
        yield Together(world if world.size > 1 else None, debug)
