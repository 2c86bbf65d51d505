"""Where a token stands: learned embeddings (GPT-2) and rotary embeddings (RoPE, Llama).

RoPE is Su et al. 2021 (arXiv 2104.09864), in the split-halves layout of transformers: dimension i of a head
turns together with dimension i + head_dim/2, so that an export is a pure rename.
"""

import torch
from torch import Tensor, nn


class LearnedPositionalEmbedding(nn.Module):
    """One learned vector per position."""

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context_length, d_model))

    def forward(self, length: int) -> Tensor:
        """Vectors of the first positions, (length, d_model)."""
        return self.weight[:length]


class RoPE(nn.Module):
    """Turns each pair of dimensions of queries and keys by position * theta^(-2i/head_dim)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, head_dim: int, theta: float) -> None:
        super().__init__()
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(context_length, head_dim // 2), persistent=False)  # (T, D/2)
        if self.cos.is_meta:  # only shapes are wanted, and arithmetic on this device takes torch a second to import
            return
        frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, T, D) -> the same shape and dtype."""
        cos, sin = (table[: x.shape[-2]].to(x.dtype) for table in (self.cos, self.sin))  # (T, D/2) each
        x1, x2 = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
