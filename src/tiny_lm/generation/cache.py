"""Keys and values of the tokens so far, so that a new token costs one position and not all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Memory for `rows` texts of up to `room` positions each, taken once.

    `memory` is (L, 2, B, K, S, D): layers, keys and then values, rows, heads, positions, head_dim. The positions of
    every row begin at 0, so texts of different lengths lie side by side with no padding before them. The dimensions of
    keys lie in the `order` (D,) in which the decoder wants them.
    """

    def __init__(self, params: Any, rows: int, room: int, order: Tensor, like: Tensor) -> None:
        self.order = order
        # zeros, for what is masked must still be a number
        self.memory = like.new_zeros(params.n_layers, 2, rows, params.n_kv_heads, room, len(order))

    def layers(self, rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Views of each layer: all of it as lines (2BKS, D); keys and values of the first rows, (BK, S, D) each."""
        return [(layer.flatten(0, 3), *layer[:, :rows].flatten(1, 2)) for layer in self.memory]

    def read_into(self, rows: Sequence[int]) -> list[LayerReading]:
        """The rows, as the model takes a cache: it reads a whole text into each, over what was there."""
        index = torch.tensor(rows, device=self.memory.device)
        return [LayerReading(layer, index, self.order) for layer in self.memory]

    def move(self, source: int, target: int) -> None:
        """Puts the row `source` in the place of the row `target`."""
        with torch.inference_mode():
            self.memory[:, :, target] = self.memory[:, :, source]


class LayerReading:
    """Keeps keys and values of one layer while the model reads texts from their beginning, in one call."""

    def __init__(self, memory: Tensor, rows: Tensor, order: Tensor) -> None:
        self.keys, self.values = memory  # (B, K, S, D) each
        self.rows, self.order = rows, order
        self.length = 0

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v, (rows, K, T, D) each, and returns them."""
        self.keys[self.rows, :, : k.shape[2]] = k[..., self.order]
        self.values[self.rows, :, : v.shape[2]] = v
        return k, v
