"""Keys and values of the tokens so far, so that a new token costs one position and not all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Memory for `rows` texts of up to `room` positions each, taken once.

    `memory` is (L, 2, B, K, S, D): layers, keys and then values, rows, heads, positions, head_dim. The positions of
    every row begin at 0, so texts of different lengths lie side by side with no padding before them.
    """

    def __init__(self, params: Any, rows: int, room: int, like: Tensor) -> None:
        head_dim = params.d_model // params.n_heads
        # zeros, for what is masked must still be a number
        self.memory = like.new_zeros(params.n_layers, 2, rows, params.n_kv_heads, room, head_dim)

    def layers(self, rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Views of each layer: all of it as lines (2BKS, D); keys and values of the first rows, (BK, S, D) each."""
        return [(layer.flatten(0, 3), *layer[:, :rows].flatten(1, 2)) for layer in self.memory]

    def write(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts k and v, (rows, K, T, D) each, in the first T positions of the rows."""
        for memory, new in zip(self.memory[layer], (k, v), strict=True):
            memory[rows, :, : new.shape[2]] = new

    def move(self, source: int, target: int) -> None:
        """Puts the row `source` in the place of the row `target`."""
        with torch.inference_mode():
            self.memory[:, :, target] = self.memory[:, :, source]
