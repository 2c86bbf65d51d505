"""Keys and values of the tokens so far, so that a new token costs one position and not all of them."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerKVCache:
    """Keys and values of one layer. The memory for `context_length` positions is taken at the first update."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self.length = 0
        self.k = self.v = torch.empty(0)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends k and v, (B, K, T, D) each; returns all so far, (B, K, S, D) each, as views."""
        if self.length == 0:
            batch, heads, _, head_dim = k.shape
            self.k = k.new_empty(batch, heads, self.context_length, head_dim)
            self.v = v.new_empty(batch, heads, self.context_length, head_dim)
        end = self.length + k.shape[2]
        assert end <= self.context_length, "the model checks the length of its input"
        self.k[:, :, self.length : end] = k
        self.v[:, :, self.length : end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


class KVCache(list[LayerKVCache]):
    """Keys and values of all layers of a model. One cache for one batch of equally long sequences."""

    def __init__(self, n_layers: int, context_length: int) -> None:
        super().__init__(LayerKVCache(context_length) for _ in range(n_layers))

    @property
    def length(self) -> int:
        """Positions in the cache, as the model finds it: the first layer is the first to grow."""
        return self[0].length
