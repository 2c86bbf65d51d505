"""Fractions of right answers: their interval, and how they depend on a distance."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # standard errors on each side that contain 95 % of a normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a probability of which `right` of `n` trials were successes."""
    p, z2 = right / n, Z**2
    center, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (center - half) / (1 + z2 / n), (center + half) / (1 + z2 / n)


class AccuracyByDistance:
    """Sums over the answers at distances of 0 to 3 tokens, 4 to 7, 8 to 15, and so on."""

    def __init__(self) -> None:
        self.answers, self.right, self.distance = (np.zeros(64, np.int64) for _ in range(3))

    def add(self, distance: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        group = np.log2(np.maximum(distance, 2)).astype(int)
        np.add.at(self.answers, group, 1)
        np.add.at(self.right, group, right)
        np.add.at(self.distance, group, distance)

    def curve(self) -> Iterator[tuple[float, float, int]]:
        """(mean distance, accuracy, answers) of each group that has answers."""
        for i in np.flatnonzero(self.answers):
            n = int(self.answers[i])
            yield int(self.distance[i]) / n, int(self.right[i]) / n, n
