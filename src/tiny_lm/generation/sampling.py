"""From logits to the next token: temperature, top-k, top-p (nucleus, Holtzman et al. 2020, arXiv 1904.09751)."""

from __future__ import annotations

import torch
from torch import Tensor

from tiny_lm.params import check


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """ValueError of key, value and what is allowed."""
    check(0 <= temperature <= 100, "temperature", temperature, "between 0 (greedy) and 100")
    check(top_k is None or top_k >= 1, "top_k", top_k, "at least 1, or null")
    check(top_p is None or 0 < top_p <= 1, "top_p", top_p, "over 0 and at most 1, or null")


def probabilities(logits: Tensor, *, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (..., V) -> what to draw from, (..., V), float32.

    Divides by the temperature, keeps the `top_k` likeliest, then of these the fewest likeliest that make up `top_p`;
    among equals the lower id goes first. At temperature 0 all probability is on the likeliest.
    """
    ordered, ids = logits.float().sort(dim=-1, descending=True, stable=True)  # (..., V)
    if temperature == 0:
        top_k = 1
    else:
        ordered = (ordered - ordered[..., :1]) / temperature  # at most 0: no overflow at small temperatures
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    shares = ordered.softmax(-1)
    if top_p is not None and top_p < 1:
        before = shares.cumsum(-1) - shares
        shares = shares.masked_fill(before >= top_p, 0.0)
        shares = shares / shares.sum(-1, keepdim=True)
    return torch.zeros_like(shares).scatter(-1, ids, shares)


def sample(shares: Tensor, generator: torch.Generator) -> Tensor:
    """One id per row of probabilities: (B, V) -> (B,)."""
    return torch.multinomial(shares, 1, generator=generator)[:, 0]
