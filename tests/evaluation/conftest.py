"""Predictions that need no model."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tiny_lm.evaluation.predictions import Predictions


@pytest.fixture
def predictions() -> Callable[..., Predictions]:
    """predictions(x, y, top=…, confidence=…, nats=…): a batch; what is not given is zero."""

    def predictions(x: ArrayLike, y: ArrayLike, **given: ArrayLike) -> Predictions:
        inputs, targets = np.array(x), np.array(y)
        zeros = {
            "top": np.zeros(targets.shape, int),
            **{key: np.zeros(targets.shape) for key in ("confidence", "nats")},
        }
        return Predictions(
            x=inputs, y=targets, document=np.arange(len(inputs)), **zeros | {k: np.array(v) for k, v in given.items()}
        )

    return predictions
