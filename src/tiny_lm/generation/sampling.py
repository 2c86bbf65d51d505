"""From logits to the next token: temperature, top-k, top-p (nucleus, Holtzman et al. 2020, arXiv 1904.09751).

All functions are pure: random numbers are arguments.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tiny_lm.io.params import check


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ValueError with the key, its value and the allowed values."""
    check(0 <= temperature <= 100, "temperature", temperature, "between 0 (greedy) and 100")
    check(top_k is None or top_k >= 1, "top_k", top_k, "at least 1, or null")
    check(top_p is None or 0 < top_p <= 1, "top_p", top_p, "over 0 and at most 1, or null")


def probabilities(logits: Tensor, *, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (B, V) -> the distribution to sample from, (B, V), float32.

    Divides by the temperature, keeps the `top_k` most likely tokens, then the fewest of these that together reach
    `top_p`; of equally likely tokens the lower ids are kept. At temperature 0 the most likely token has probability 1.
    """
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits - logits.amax(-1, keepdim=True)  # at most 0: no overflow at low temperatures
    probs = (logits / max(temperature, 1e-30)).softmax(-1)  # in float32, much smaller temperatures would be 0
    if top_k is None and top_p is None:
        return probs
    ascending = torch.from_numpy(np.sort(probs.numpy()))  # (B, V); numpy takes a thirtieth of torch's time
    size = ascending.shape[-1]
    # (B, 1), of those kept
    first = torch.full_like(ascending[:, :1], max(0, size - (top_k or size)), dtype=torch.int64)
    if top_p is not None:
        cumulative = ascending[:, first[0, 0] :].double().cumsum(-1)
        first += torch.searchsorted(cumulative, (1 - top_p) * cumulative[:, -1:], right=True)
        first = first.clamp(max=size - 1)
    threshold = ascending.gather(-1, first)
    kept = probs >= threshold
    surplus = first - torch.searchsorted(ascending, threshold)  # tokens at the threshold that are too many
    if surplus.any():
        equal = probs == threshold
        kept &= ~equal | (equal.cumsum(-1) <= equal.sum(-1, keepdim=True) - surplus)
    probs = probs * kept
    return probs / probs.sum(-1, keepdim=True)


def sample(probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform sampling: in each row the first id whose cumulative probability exceeds the random number.

    probs (B, V), uniform (B,) in [0, 1) of at most 32 bits -> (B,). An id of probability 0 is never drawn.
    """
    cumulative = probs.double().cumsum(-1)  # (B, V)
    return torch.searchsorted(cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]


def next_tokens(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Logits (B, V), random numbers (B,) in [0, 1) -> one id per row, (B,). At temperature 0 the most likely."""
    if temperature == 0:
        return torch.from_numpy(logits.float().numpy().argmax(-1))  # numpy takes a fifth of torch's time
    return sample(probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p), uniform)
