"""Losses of a split, document by document: every token is a target once, and no document sees another.

`loss` includes `<eos>`; `bits_per_byte` and `bits_per_char` count the text alone, which makes them comparable between
tokenizers (Gao et al. 2020, The Pile, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tiny_lm.model.transformer import Transformer


@dataclass(frozen=True)
class DocumentLosses:
    """Sums over the targets of each document, and over the targets at each position in the context."""

    text_nats: np.ndarray  # (documents,) float64, without <eos>
    eos_nats: np.ndarray  # (documents,) float64
    targets: np.ndarray  # (documents,) int64, <eos> included
    position_nats: np.ndarray  # (context_length,) float64
    position_targets: np.ndarray  # (context_length,) int64

    def metrics(self, *, text_bytes: int, characters: int) -> dict[str, float]:
        """`loss` in nats per target, `perplexity`, and bits per UTF-8 byte and per character of the text."""
        loss = float(self.text_nats.sum() + self.eos_nats.sum()) / int(self.targets.sum())
        bits = float(self.text_nats.sum()) / math.log(2)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": bits / text_bytes,
            "bits_per_char": bits / characters,
        }

    def above_floor(self, floor_bits: float, text_bytes: int) -> dict[str, float]:
        """The floor of documents whose generator is known, and how far above it the model is: bits per UTF-8 byte.

        Both count the end of a document, since some tokenizers let the last token of a text announce it.
        """
        bits = float(self.text_nats.sum() + self.eos_nats.sum()) / math.log(2)
        return {
            "floor_bits_per_byte": floor_bits / text_bytes,
            "bits_above_floor": (bits - floor_bits) / text_bytes,
        }


@torch.inference_mode()
def document_losses(
    model: Transformer,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    documents: int,
    context_length: int,
    eos_id: int,
    precision: str,
    progress: bool,
) -> DocumentLosses:
    """Scores batches of windows, x (B, T), y (B, T), document (B,), in precision "32" or "bf16-mixed"."""
    device = next(model.parameters()).device
    sums = DocumentLosses(
        text_nats=np.zeros(documents), eos_nats=np.zeros(documents), targets=np.zeros(documents, np.int64),
        position_nats=np.zeros(context_length), position_targets=np.zeros(context_length, np.int64),
    )  # fmt: skip
    for x, y, document in tqdm(batches, "evaluate", unit="batch", disable=not progress):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            nats = model.token_losses(x.to(device), y.to(device)).double().cpu().numpy()  # (B, T)
        target, rows, width = y.numpy(), document.numpy(), y.shape[1]
        np.add.at(sums.text_nats, rows, np.where(target == eos_id, 0.0, nats).sum(1))
        np.add.at(sums.eos_nats, rows, np.where(target == eos_id, nats, 0.0).sum(1))
        np.add.at(sums.targets, rows, (target != -100).sum(1))
        sums.position_nats[:width] += nats.sum(0)
        sums.position_targets[:width] += (target != -100).sum(0)
    return sums
