"""The interface of an executor, which applies a function to many items, and the one that uses this process only.

Stages divide their work into parts, and a part is computed by a function of the part alone. So the executor decides
where and when that happens, but not what the result is. `runner/executors.py` has those of several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    def ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yields `function(item)` for each item, in the order of the items, which may be computed in any order.

        Function, items and results must be picklable. Only a few items are taken ahead of the results.
        """
        ...


class InProcess:
    def ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        yield from map(function, items)
