"""Processes that a launcher started for one command: they do their parts, and fail as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import typer

from ..errors import MachineError
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
        if self.world is None:
            return work()
        done, failure = _tried(work)
        self._agree(failure, self._exchanged(bool(done)))
        return done[0]

    def collect(self, work: Callable[[], T]) -> list[T]:
        """What the work gives in each process, in their order, in all. Fails like `do`."""
        if self.world is None:
            return [work()]
        done, failure = _tried(work)
        all_done = self._exchanged(done)
        self._agree(failure, [bool(one) for one in all_done])
        return [one[0] for one in all_done]

    def _agree(self, failure: Exception | None, good: list[bool]) -> None:
        if all(good):
            return
        speaks = self.rank == good.index(False)
        code = console.report(failure, debug=self.debug) if failure and speaks else 0
        # Nobody leaves before the words are out: the launcher ends the others as soon as one has left.
        raise typer.Exit(max(self._exchanged(code)))

    def _exchanged(self, value: T) -> list[T]:
        assert self.world is not None
        try:
            return self.world.collect(value)
        except RuntimeError as error:  # a connection is lost: a process was killed, or ended with words of its own
            if not self.leads:
                raise typer.Exit(MachineError.exit_code) from None
            raise MachineError(
                "another process of this run has ended", "look at its messages, then run again"
            ) from error


def _tried(work: Callable[[], T]) -> tuple[list[T], Exception | None]:
    """What the work gives, alone in a list, or the empty list and why there is nothing."""
    try:
        return [work()], None
    except Exception as error:
        return [], error


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
