"""Normalization of the residual stream, over its last axis: torch's layers by the architectures' names."""

from torch import nn


class LayerNorm(nn.LayerNorm):
    """To mean 0 and variance 1, then a learned scale and shift (Ba et al. 2016, arXiv 1607.06450)."""


class RMSNorm(nn.RMSNorm):
    """To root mean square 1, then a learned scale: no mean, no shift (Zhang & Sennrich 2019, arXiv 1910.07467)."""
