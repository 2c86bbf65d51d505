"""Calibration: is a model right as often as it expects to be?

The confidence is the probability of the most probable token, which is right if it is the target. A reliability diagram
plots accuracy against confidence, in bins of equal width (Guo et al. 2017, arXiv 1706.04599, equations 2, 3 and 5).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tiny_lm.evaluation.predictions import Predictions

BINS = 15  # as in Guo et al.


class Calibration:
    """Sums over the targets in each bin."""

    def __init__(self) -> None:
        self.targets, self.right = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)

    def add(self, batch: Predictions) -> None:
        confidence = batch.confidence[batch.is_target]
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        right = (batch.top == batch.y)[batch.is_target]
        self.targets += np.bincount(bins, minlength=BINS)
        self.right += np.bincount(bins[right], minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)

    def metrics(self) -> dict[str, float]:
        """Accuracy, mean confidence, and `ece`, the expected calibration error: the mean over the targets of
        |accuracy - confidence| of their bin.
        """
        targets = int(self.targets.sum())
        return {
            "accuracy": int(self.right.sum()) / targets,
            "confidence": float(self.confidence.sum()) / targets,
            # not "error": `dvc metrics show` takes that key for a failure
            "ece": float(np.abs(self.right - self.confidence).sum()) / targets,
        }

    def curve(self) -> Iterator[tuple[float, float, int]]:
        """(mean confidence, accuracy, targets) of each bin that has targets."""
        for i in np.flatnonzero(self.targets):
            n = int(self.targets[i])
            yield float(self.confidence[i]) / n, int(self.right[i]) / n, n
