"""The random choices of a story, with their probabilities.

Every text shows its plot and how sentences are put. Words are dealt to the roles of a plot before it is told, and a
text shows only some of them; the others do not count. `Choices.nats` is minus the logarithm of the probability of what
a text shows, and thereby of the text: no two sets of choices tell the same, except where `repeat` says so.

All randomness is `random.Random(integer).random()`, which Python promises to keep.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
FREQUENT = 8  # of a list are frequent: nine times out of ten, one deals from these alone


class Choices:
    """Draws at random for story number `index` of `seed`, and records what was drawn."""

    def __init__(self, seed: int, index: int) -> None:
        digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
        self.draw = random.Random(int.from_bytes(digest, "little")).random
        self.deals: list[FromPools | FromTable] = []
        self._nats = 0.0  # of the choices that every text shows

    def happens(self, probability: float) -> bool:
        happens = self.draw() < probability
        self._nats -= math.log(probability if happens else 1 - probability)
        return happens

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, in which some may be repeated."""
        item = items[int(self.draw() * len(items))]
        self._nats += math.log(len(items) / items.count(item))
        return item

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Different ones, in the order in which they are drawn."""
        self._nats += math.log(math.perm(len(items), count))
        return self._take(items, count)

    def deal(self, words: str, items: Sequence[T]) -> list[T]:
        """Different items for `words`, names with spaces between; the text shows all, some or none of them."""
        names = words.split()
        values = self._take(items, len(names))
        self.deals.append(FromPools(names, values, [(1.0, items)]))
        return values

    def deal_frequent(self, words: str, items: Sequence[T]) -> list[T]:
        """Like `deal`, nine times out of ten from the frequent ones, which come first."""
        names = words.split()
        values = self._take(items[:FREQUENT] if int(self.draw() * 10) else items, len(names))
        self.deals.append(FromPools(names, values, [(0.9, items[:FREQUENT]), (0.1, items)]))
        return values

    def deal_row(self, words: str, rows: Sequence[Sequence[T]]) -> Sequence[T]:
        """A row of a table for `words`, the names of its columns."""
        row = rows[int(self.draw() * len(rows))]
        self.deals.append(FromTable(words.split(), row, rows))
        return row

    def repeat(self, times: float) -> None:
        """Other choices give the same text, and are `times` as probable as those that were made."""
        self._nats -= math.log1p(times)

    def nats(self, shown: Collection[str]) -> float:
        """Minus the log-probability of the choices that a text shows, which shows the dealt words `shown`."""
        return self._nats - sum(math.log(deal.probability(shown)) for deal in self.deals)

    def _take(self, items: Sequence[T], count: int) -> list[T]:
        if count == 1:
            return [items[int(self.draw() * len(items))]]
        left = list(items)
        return [left.pop(int(self.draw() * len(left))) for _ in range(count)]


class FromPools(NamedTuple):
    """Different values for `names`, all from one of several pools, each with a probability."""

    names: Sequence[str]
    values: Sequence[object]
    pools: Sequence[tuple[float, Sequence[object]]]

    def probability(self, shown: Collection[str]) -> float:
        """That the words in `shown` have the values that they have, whatever the others have."""
        values = [value for name, value in zip(self.names, self.values, strict=True) if name in shown]
        if not values:
            return 1.0
        ways = [(p, len(pool)) for p, pool in self.pools if all(value in pool for value in values)]
        return sum(p / math.perm(size, len(values)) for p, size in ways)


class FromTable(NamedTuple):
    """One of the rows of a table, in which all are equally probable; `names` are its columns."""

    names: Sequence[str]
    values: Sequence[object]
    rows: Sequence[Sequence[object]]

    def probability(self, shown: Collection[str]) -> float:
        """That the columns in `shown` have the values of this row."""
        columns = [i for i, name in enumerate(self.names) if name in shown]
        return sum(all(row[i] == self.values[i] for i in columns) for row in self.rows) / len(self.rows)
