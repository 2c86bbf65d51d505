from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from tiny_lm.evaluation.calibration import BINS, Calibration
from tiny_lm.evaluation.predictions import Predictions

RIGHT, WRONG, PADDING = 0, 1, -100  # targets, since the most probable token is 0


def measured(batches: list[Predictions]) -> Calibration:
    calibration = Calibration()
    for batch in batches:
        calibration.add(batch)
    return calibration


def test_a_model_that_is_right_as_often_as_it_expects_has_no_error(predictions: Callable[..., Predictions]) -> None:
    confidence = np.repeat([0.05, 0.3, 0.75, 1.0], 20).reshape(4, 20)
    y = [[RIGHT] * n + [WRONG] * (20 - n) for n in (1, 6, 15, 20)]
    calibration = measured([predictions(y, y, confidence=confidence)])
    assert calibration.metrics() == pytest.approx({"accuracy": 42 / 80, "confidence": 42 / 80, "ece": 0})
    assert list(calibration.curve()) == [pytest.approx((p, p, 20)) for p in (0.05, 0.3, 0.75, 1.0)]


def test_drawn_from_its_own_probabilities_the_error_is_that_of_chance(predictions: Callable[..., Predictions]) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random((100, 1000))
    y = np.where(rng.random(confidence.shape) < confidence, RIGHT, WRONG)
    assert measured([predictions(y, y, confidence=confidence)]).metrics()["ece"] < 0.01
    over = confidence**0.5  # right with probability p, but expects √p: the error is 2/3 - 1/2
    error = measured([predictions(y, y, confidence=over)]).metrics()["ece"]
    assert error == pytest.approx(1 / 6, abs=0.01)


def test_the_error_is_that_of_the_definition_whatever_the_batches(predictions: Callable[..., Predictions]) -> None:
    rng = np.random.default_rng(1)
    confidence, y = rng.random((30, 7)) ** 0.3, rng.choice([RIGHT, WRONG, PADDING], (30, 7))
    confidence[0, :3] = 1 / BINS, 2 / BINS, 1e-9  # a bin contains its upper end
    y[0, :3] = RIGHT
    batches = [predictions(y[i : i + 10], y[i : i + 10], confidence=confidence[i : i + 10]) for i in (0, 10, 20)]
    error, points = 0.0, []
    for low, high in pairwise(k / BINS for k in range(BINS + 1)):
        inside = (low < confidence) & (confidence <= high) & (y != PADDING)
        if inside.any():
            accuracy, mean = (y[inside] == RIGHT).mean(), confidence[inside].mean()
            error += inside.sum() / (y != PADDING).sum() * abs(accuracy - mean)
            points.append(pytest.approx((mean, accuracy, inside.sum())))
    calibration = measured(batches)
    assert calibration.metrics()["ece"] == pytest.approx(error)
    assert list(calibration.curve()) == points
    assert calibration.targets.sum() == (y != PADDING).sum()
