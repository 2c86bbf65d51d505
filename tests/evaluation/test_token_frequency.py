from collections.abc import Callable

import numpy as np
import pytest

from tiny_lm.evaluation.predictions import Predictions
from tiny_lm.evaluation.token_frequency import LossByFrequency


def test_losses_are_grouped_by_powers_of_ten_of_the_training_frequency(
    predictions: Callable[..., Predictions],
) -> None:
    counts = np.array([900_000, 99_989, 10, 1, 0, 0])  # of a million; token 4 and 5 never occur
    losses = LossByFrequency(counts)
    y = [[0, 1, 2, -100], [3, 4, 0, 2]]
    losses.add(predictions(y, y, nats=[[0.5, 1, 2, 0], [8, 10, 1.5, 4]]))
    losses.add(predictions([[0]], [[0]], nats=[[1.0]]))
    assert list(losses.curve()) == [(1.0, 9.0, 2), (10.0, 3.0, 2), (10_000.0, 1.0, 1), (100_000.0, 1.0, 3)]


def test_all_targets_are_counted_however_rare_or_frequent(predictions: Callable[..., Predictions]) -> None:
    y = [[0, 1]]
    for counts in ([2**26 - 1, 1], [0, 5], [0, 0], [1, 1]):
        losses = LossByFrequency(np.array(counts))
        losses.add(predictions(y, y, nats=[[1.0, 3.0]]))
        groups = list(losses.curve())
        assert sum(targets for _, _, targets in groups) == 2
        assert sum(loss * targets for _, loss, targets in groups) == pytest.approx(4)
