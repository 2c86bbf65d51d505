"""What the generator knows about the validation stories, collected while they are written."""

from __future__ import annotations

import math

from tiny_lm.corpus.filters import Filters
from tiny_lm.exam import Exam
from tiny_lm.stories.generator import Story


class Examiner:
    """Takes the validation documents one by one."""

    def __init__(self) -> None:
        self._documents = 0
        self._nats: float | None = 0.0  # None: some document is not a whole story

    def take(self, text: str) -> None:
        self._documents += 1
        if isinstance(text, Story) and self._nats is not None:
            self._nats += text.nats
        else:
            self._nats = None

    def exam(self, filters: Filters) -> Exam:
        """After the last document.

        A story that passes the filters is 1 / P(kept) times as probable as a story that nobody filters. The random
        split changes nothing: which texts a hash picks is chance to whoever does not compute it.
        """
        if self._nats is None:
            return Exam(None)
        kept = 1 - sum(filters.removed.values()) / filters.read
        return Exam((self._nats + self._documents * math.log(kept)) / math.log(2))
