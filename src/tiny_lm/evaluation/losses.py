"""Losses of a split, document by document: every token is a target once, and no document sees another.

`loss` includes `<eos>`; `bits_per_byte` and `bits_per_char` count the text alone, which makes them comparable between
tokenizers (Gao et al. 2020, The Pile, section 3.1).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tiny_lm.evaluation.predictions import Predictions

ALL = slice(None)


class DocumentLosses:
    """Sums over the targets of each document, and over the targets at each position in the context."""

    def __init__(self, *, documents: int, context_length: int, eos_id: int) -> None:
        self.eos_id = eos_id
        self.text_nats = np.zeros(documents)  # without <eos>
        self.eos_nats = np.zeros(documents)
        self.targets = np.zeros(documents, np.int64)  # <eos> included
        self.position_nats = np.zeros(context_length)
        self.position_targets = np.zeros(context_length, np.int64)

    def add(self, batch: Predictions) -> None:
        is_eos, is_target, width = batch.y == self.eos_id, batch.is_target, batch.y.shape[1]
        np.add.at(self.text_nats, batch.document, np.where(is_eos, 0.0, batch.nats).sum(1))
        np.add.at(self.eos_nats, batch.document, np.where(is_eos, batch.nats, 0.0).sum(1))
        np.add.at(self.targets, batch.document, is_target.sum(1))
        self.position_nats[:width] += batch.nats.sum(0)
        self.position_targets[:width] += is_target.sum(0)

    def metrics(
        self, *, text_bytes: int, characters: int, documents: NDArray[np.intp] | slice = ALL
    ) -> dict[str, float]:
        """`loss` in nats per target, `perplexity`, and bits per UTF-8 byte and per character of the text; of all
        documents, or of some, whose bytes and characters are given.
        """
        text_nats, eos_nats = self.text_nats[documents], self.eos_nats[documents]
        loss = float(text_nats.sum() + eos_nats.sum()) / int(self.targets[documents].sum())
        bits = float(text_nats.sum()) / math.log(2)
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
