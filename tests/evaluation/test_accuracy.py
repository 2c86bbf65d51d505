import math

import numpy as np
import pytest

from tiny_lm.evaluation.accuracy import AccuracyByDistance, wilson


def test_wilson_intervals_are_those_of_the_literature() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    for right, n in ((3, 10), (999, 1000)):
        for p in wilson(right, n):  # the two solutions of |right / n - p| = z sqrt(p (1 - p) / n)
            assert abs(right / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n))


def test_groups_of_distances_double_and_may_be_added_in_parts() -> None:
    groups = AccuracyByDistance()
    groups.add(np.array([1, 3, 4, 7]), np.array([True, False, True, True]))
    groups.add(np.array([], int), np.array([], bool))
    groups.add(np.array([7, 8, 255, 256]), np.array([False, True, False, True]))
    assert list(groups.curve()) == [(2, 0.5, 2), (6, 2 / 3, 3), (8, 1, 1), (255, 0, 1), (256, 1, 1)]
