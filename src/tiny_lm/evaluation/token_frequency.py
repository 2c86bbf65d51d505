"""The loss of targets by how often their token occurs in the training split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tiny_lm.evaluation.predictions import Predictions

POWERS = np.arange(-2, 7)  # of ten: occurrences per million of the training tokens that are counted, at most 2^26


class LossByFrequency:
    """Sums over the targets whose token occurs 1 to 10 times in a million training tokens, 10 to 100 times, and so on.

    A token that does not occur is treated as one that occurs once.
    """

    def __init__(self, token_counts: NDArray[np.int64]) -> None:
        per_million = np.maximum(token_counts, 1) * 1e6 / max(1, token_counts.sum())
        self._group = np.searchsorted(10.0**POWERS, per_million, side="right") - 1  # of each token, (V,)
        self.nats, self.targets = np.zeros(len(POWERS)), np.zeros(len(POWERS), np.int64)

    def add(self, batch: Predictions) -> None:
        groups = self._group[batch.y[batch.is_target]]
        self.nats += np.bincount(groups, batch.nats[batch.is_target], len(POWERS))
        self.targets += np.bincount(groups, minlength=len(POWERS))

    def curve(self) -> Iterator[tuple[float, float, int]]:
        """(lower end of the group, mean nats, targets) of each group that has targets, rarest first."""
        for i in np.flatnonzero(self.targets):
            n = int(self.targets[i])
            yield float(10.0 ** POWERS[i]), float(self.nats[i]) / n, n
