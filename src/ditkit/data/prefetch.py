"""Results in their order, computed ahead by threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, threads: int, name: str
) -> Generator[Result, None, None]:
    """`function` of each item, in order, `ahead` of them computed in advance by threads that end with the iterator.

    An exception of the function is raised where its result would come. `name` is that of the threads.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        pending = deque(pool.submit(function, item) for item in itertools.islice(items, ahead))
        try:
            while pending:
                ready = pending.popleft()
                pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
                yield ready.result()
        finally:
            for future in pending:
                future.cancel()
