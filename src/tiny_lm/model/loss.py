"""Cross-entropy of next-token prediction, without ever holding the logits of all tokens.

The logits of a batch are its largest tensor (tokens x vocabulary), so they are made in pieces of rows, and the
gradients of a piece with them while it is still in the cache (as in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989).
It is exact in bfloat16, where `linear_cross_entropy` is not, and on a CPU faster than `cross_entropy`: docs/log.md.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # targets that count nothing
PIECE_LOGITS = 2**28  # held at a time: 1 GB in float32
PIECE_ROWS_CPU = 512  # and no more on a CPU, where larger products are not faster (docs/log.md)


def mean_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """The mean over the targets of a batch, in nats. x (B, T), y (B, T)."""
    return summed_loss(model, x, y) / (y != IGNORED).sum()


def summed_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """The sum over the targets of a batch, in nats. x (B, T), y (B, T)."""
    return next_token_loss(model.features(x), model.lm_head.weight, y)


def compiled_summed_loss() -> Callable[[Any, Tensor, Tensor], Tensor]:
    """`summed_loss`, compiled except for the embedding, whose compiled gradient is slow for frequent tokens."""
    rest = torch.compile(lambda model, x, y: next_token_loss(model.transform(x), model.lm_head.weight, y))
    return lambda model, x, y: rest(model, model.embed(x), y)


@torch.no_grad()
def token_losses(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """The loss of every target in nats, float32 (B, T), 0 where y is -100. It has no gradients."""
    rows, ids = model.features(x).flatten(0, -2), y.flatten()  # (N, d_model), (N,)
    weight = model.lm_head.weight.to(rows.dtype)  # (V, d_model)
    losses = torch.empty(ids.shape, dtype=torch.float32, device=rows.device)
    for piece in _pieces(rows, weight):
        index = ids[piece].clamp(min=0)[:, None]  # (n, 1)
        losses[piece] = -_log_probabilities(rows[piece], weight).gather(1, index)[:, 0]
    return losses.masked_fill(ids == IGNORED, 0.0).view(y.shape)


def next_token_loss(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats, float32, of softmax(features @ weight.T) against targets, where -100 is ignored.

    features (B, T, d_model), in whose type products are made, weight (V, d_model), targets (B, T).
    """
    summed: Tensor = _SummedLoss.apply(features.flatten(0, -2), weight, targets.flatten())
    return summed


def _pieces(rows: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(1, PIECE_LOGITS // weight.shape[0])
    if rows.device.type == "cpu":
        size = min(size, PIECE_ROWS_CPU)
    return (slice(start, start + size) for start in range(0, rows.shape[0], size))


def _log_probabilities(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax(rows @ weight.t(), dim=-1, dtype=torch.float32)


class _SummedLoss(torch.autograd.Function):
    """The sum of the losses of all rows, with gradients that are made on the way forward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        weight_cast = weight.to(rows.dtype)
        counts = (ids != IGNORED)[:, None]  # (N, 1)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        rows_grad = torch.empty_like(rows)  # (N, d_model)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32)  # (V, d_model), summed in float32
        for piece in _pieces(rows, weight):
            index = ids[piece].clamp(min=0)[:, None]  # (n, 1)
            logs = _log_probabilities(rows[piece], weight_cast)  # (n, V)
            found = logs.gather(1, index)  # (n, 1)
            total -= (found * counts[piece]).sum()
            # d loss / d logits = softmax - one_hot(target); the second is scattered, as rounded as the first
            logits_grad = logs.exp_().to(rows.dtype).scatter_(1, index, (found.exp() - 1).to(rows.dtype))
            rows_grad[piece] = (logits_grad @ weight_cast) * counts[piece]
            weight_grad += logits_grad.t() @ (rows[piece] * counts[piece])
        ctx.save_for_backward(rows_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * gradients[0] for gradient in ctx.saved_tensors), None
