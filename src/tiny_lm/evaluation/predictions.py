"""What a model predicts for each token of the validation split, batch by batch. Each statistic adds up what it needs.

A new statistic is a class with `add(batch)`, like those in calibration.py, which the evaluate stage lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tiny_lm.model.transformer import Transformer
from tiny_lm.shards.windows import IGNORE


@dataclass(frozen=True)
class Predictions:
    """Of a batch of windows; all but `document` are (B, T)."""

    x: NDArray[np.int64]  # inputs
    y: NDArray[np.int64]  # targets, -100 for padding
    document: NDArray[np.int64]  # (B,), their numbers
    nats: NDArray[np.float64]  # losses of the targets, 0 for padding
    confidence: NDArray[np.float64]  # probability of the most probable token
    top: NDArray[np.int64]  # the most probable token

    @property
    def is_target(self) -> NDArray[np.bool_]:
        return self.y != IGNORE


def predictions(
    model: Transformer, batches: Iterable[tuple[Tensor, Tensor, Tensor]], *, precision: str, progress: bool
) -> Iterator[Predictions]:
    """For batches of windows, x (B, T), y (B, T), document (B,), in precision "32" or "bf16-mixed"."""
    device = next(model.parameters()).device
    for x, y, document in tqdm(batches, "evaluate", unit="batch", disable=not progress):
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            nats, confidence, top = model.token_predictions(x.to(device), y.to(device))
        yield Predictions(
            x.numpy(), y.numpy(), document.numpy(), nats.double().cpu().numpy(), confidence.double().cpu().numpy(),
            top.cpu().numpy(),
        )  # fmt: skip
