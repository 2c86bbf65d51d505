"""From logits to the next token: temperature, top-k, top-p (nucleus, Holtzman et al. 2020, arXiv 1904.09751).

All functions are pure: what is random comes in as numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tiny_lm.io.params import check


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """ValueError of key, value and what is allowed."""
    check(0 <= temperature <= 100, "temperature", temperature, "between 0 (greedy) and 100")
    check(top_k is None or top_k >= 1, "top_k", top_k, "at least 1, or null")
    check(top_p is None or 0 < top_p <= 1, "top_p", top_p, "over 0 and at most 1, or null")


def probabilities(logits: Tensor, *, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (B, V) -> what to draw from, (B, V), float32.

    Divides by the temperature, keeps the `top_k` likeliest, then of these the fewest likeliest that make up `top_p`;
    among equals the lower id goes first. At temperature 0 all probability is on the likeliest.
    """
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits - logits.amax(-1, keepdim=True)  # at most 0: no overflow at small temperatures
    shares = (logits / max(temperature, 1e-30)).softmax(-1)  # float32 holds no smaller one
    if top_k is None and top_p is None:
        return shares
    order = torch.from_numpy(np.sort(shares.numpy()))  # (B, V), the largest last; a thirtieth of torch's time
    size = order.shape[-1]
    first = torch.full_like(order[:, :1], max(0, size - (top_k or size)), dtype=torch.int64)  # (B, 1), of those kept
    if top_p is not None:
        sums = order[:, first[0, 0] :].double().cumsum(-1)
        first = (first + torch.searchsorted(sums, (1 - top_p) * sums[:, -1:], right=True)).clamp(max=size - 1)
    least = order.gather(-1, first)
    kept = shares >= least
    surplus = first - torch.searchsorted(order, least)  # of shares that equal the least
    if surplus.any():
        equal = shares == least
        kept &= ~equal | (equal.cumsum(-1) <= equal.sum(-1, keepdim=True) - surplus)
    shares = shares * kept
    return shares / shares.sum(-1, keepdim=True)


def sample(shares: Tensor, numbers: Tensor) -> Tensor:
    """One id per row: where the shares, added up, first exceed the row's number. shares (B, V), numbers (B,) in [0, 1)
    of at most 32 bits -> (B,). An id without a share is never drawn.
    """
    sums = shares.double().cumsum(-1)  # (B, V)
    return torch.searchsorted(sums, numbers.double()[:, None] * sums[:, -1:], right=True)[:, 0]


def next_tokens(
    logits: Tensor, numbers: Tensor, *, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """One id per row of logits: (B, V), numbers (B,) in [0, 1) -> (B,). At temperature 0 the likeliest."""
    if temperature == 0:
        return torch.from_numpy(logits.float().numpy().argmax(-1))
    return sample(probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p), numbers)
