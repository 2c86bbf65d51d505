"""Normalization of the residual stream: LayerNorm (GPT-2) and RMSNorm (Llama).

Sources: Ba et al. 2016 (arXiv 1607.06450), Zhang & Sennrich 2019 (arXiv 1910.07467). Both return the input's
shape and normalize over the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """To mean 0 and variance 1, then a learned scale and shift."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """To root mean square 1, then a learned scale: no mean, no shift."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
