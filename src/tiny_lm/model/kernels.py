"""Code that exists only for speed: each function equals the plain form in its docstring, and the tests compare the two.

To understand the model, you can skip this file. docs/lab/log.md has what each kernel saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100  # a target that does not count
CHUNK_LOGITS = 2**28  # logits of the loss in memory at a time: 1 GB in float32
CHUNK_ROWS_CPU = 512  # at most this many rows on a CPU, where larger matmuls are not faster
FEW_TOKENS, LARGE = 32, 2**19  # most tokens and fewest weights for a matmul with swapped factors
BLOCK = 128  # queries at a time in blockwise attention
BLOCKS_UP_TO = 1024  # tokens; attention probabilities of longer texts take too much memory to keep


class Linear:
    """Layers with the same input as one matmul: `torch.cat([layer(x) for layer in layers], dim=-1)`."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        outputs = sum(layer.out_features for layer in layers)
        self.is_large = outputs * layers[0].in_features >= LARGE and all(layer.bias is None for layer in layers)
        self._key: object = None
        self._kept: dict[bool, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, x: Tensor, key: object = None) -> Tensor:
        """x (..., in) -> (..., sum of out).

        Calls with the same `key` reuse the concatenated weights. On a CPU they are transposed, which makes the matmul
        of a single token up to twice as fast. For a few tokens and large weights the factors are swapped, so that
        threads divide the outputs among them, which is up to twice as fast.
        """
        if key is None:
            return F.linear(x, *self._concatenated())
        if key is not self._key:
            self._key, self._kept = key, {}
        few = x.is_cpu and 1 < x.shape[:-1].numel() <= FEW_TOKENS and self.is_large and torch.get_num_threads() > 1
        transposed = x.is_cpu and not few
        if transposed not in self._kept:
            weight, bias = self._concatenated()
            self._kept[transposed] = weight.t().contiguous() if transposed else weight, bias
        weight, bias = self._kept[transposed]
        if few:
            return torch.mm(weight, x.flatten(0, -2).t()).t().unflatten(0, x.shape[:-1])
        if not transposed:
            return F.linear(x, weight, bias)
        return x @ weight if bias is None else x @ weight + bias

    def _concatenated(self) -> tuple[Tensor, Tensor | None]:
        weights: list[Tensor] = [layer.weight for layer in self.layers]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        if all(layer.bias is None for layer in self.layers):
            return weight, None
        none = weight.new_zeros
        biases: list[Tensor] = [none(layer.out_features) if layer.bias is None else layer.bias for layer in self.layers]
        return weight, torch.cat(biases)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """`F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)`. q (B, H, T, D), k, v (B, K, T, D)."""
    length = q.shape[2]
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and length <= BLOCKS_UP_TO and dropout == 0:
        return _attention_in_blocks(q, k, v)
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, enable_gqa=grouped)


def _attention_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """For bfloat16 on a CPU, where torch's kernel takes twice as long: blocks of queries, each with the keys up to its
    end, and scores rounded to bfloat16. The probabilities are kept for the backward pass.
    """
    blocks = q.unflatten(1, (k.shape[1], -1)).flatten(0, 1).split(BLOCK, dim=2)  # (BK, H/K, Q, D) each
    keys, values = (part.flatten(0, 1).split(BLOCK, dim=1) for part in (k, v))  # (BK, Q, D) each
    out = []
    for i, block in enumerate(blocks):
        seen, value = torch.cat(keys[: i + 1], dim=1), torch.cat(values[: i + 1], dim=1)  # (BK, S, D)
        future = q.new_full((block.shape[2], seen.shape[1]), -torch.inf).triu(1 + i * BLOCK).repeat(block.shape[1], 1)
        scores = torch.baddbmm(future, block.flatten(1, 2), seen.mT, alpha=q.shape[-1] ** -0.5)  # (BK, QH/K, S)
        out.append((scores.softmax(-1) @ value).view_as(block))
    return torch.cat(out, dim=2).view_as(q)


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """`F.rms_norm(x, weight.shape, weight, eps.item())`, on a CPU. x (..., d); eps is a scalar tensor.

    On a CPU, torch has no kernel for it and runs a chain of operations.
    """
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return (x * _rms_scale(x, eps)).mul_(weight)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout(x, p, training)`, skipped if it would change nothing."""
    return F.dropout(x, p) if training and p else x


def _rms_scale(x: Tensor, eps: Tensor) -> Tensor:
    """1 / sqrt(mean of x^2 + eps), (..., 1) in float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        scale = _rms_scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed, gradient = x * scale, gradients[0]
        weight_grad = (gradient * normed).flatten(0, -2).sum(0)
        gradient = gradient * weight
        along = (gradient * normed).sum(-1, keepdim=True).div_(x.shape[-1])  # the component that only changes the norm
        return normed.mul_(along).neg_().add_(gradient).mul_(scale), weight_grad, None


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Casts x once; autocast would cast it in each layer that reads it."""
    if not torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def summed_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`F.cross_entropy(features @ weight.t(), targets, ignore_index=-100, reduction="sum")`, a float32 scalar.

    features (B, T, d_model), weight (V, d_model), targets (B, T). Logits are the largest tensor of a training step, so
    they are computed in chunks of rows, and the gradients of a chunk right after it, while it is in the CPU's cache (as
    in Liger Kernel, Hsu et al. 2024, arXiv 2410.10989). Matmuls have the dtype of the features, the softmax is float32.
    """
    summed: Tensor = _SummedCrossEntropy.apply(features.flatten(0, -2), weight, targets.flatten())
    return summed


def predictions(features: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With logits = features @ weight.t(): `F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")`, and
    `F.softmax(logits, -1).max(-1)`. Losses and probabilities, float32, and tokens, (B, T) each.

    In chunks of rows, without gradients. Of equally probable tokens, the first one is taken.
    """
    rows, ids = features.flatten(0, -2), targets.flatten()  # (N, d_model), (N,)
    weight = weight.to(rows.dtype)
    losses, probs = (torch.empty(ids.shape, dtype=torch.float32, device=rows.device) for _ in range(2))
    tokens = torch.empty_like(ids)
    for chunk in _chunks(rows, weight):
        log_probs = _log_probs(rows[chunk], weight)  # (n, V)
        losses[chunk] = -log_probs.gather(1, ids[chunk].clamp(min=0)[:, None])[:, 0]
        probs[chunk], tokens[chunk] = log_probs.max(-1)
        del log_probs  # before those of the next chunk are computed
    losses = losses.masked_fill(ids == IGNORED, 0.0)
    return losses.view(targets.shape), probs.exp_().view(targets.shape), tokens.view(targets.shape)


def _chunks(rows: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // weight.shape[0])
    if rows.is_cpu:
        size = min(size, CHUNK_ROWS_CPU)
    return (slice(start, start + size) for start in range(0, rows.shape[0], size))


def _log_probs(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax(rows @ weight.t(), dim=-1, dtype=torch.float32)


class _SummedCrossEntropy(torch.autograd.Function):
    """Computes gradients in the forward pass already."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        weight_cast = weight.to(rows.dtype)
        counts = (ids != IGNORED)[:, None]  # (N, 1)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        rows_grad = torch.empty_like(rows)  # (N, d_model)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32)  # (V, d_model), summed in float32
        for chunk in _chunks(rows, weight):
            index = ids[chunk].clamp(min=0)[:, None]  # (n, 1)
            log_probs = _log_probs(rows[chunk], weight_cast)  # (n, V)
            target_log_probs = log_probs.gather(1, index)  # (n, 1)
            total -= (target_log_probs * counts[chunk]).sum()
            # d loss / d logits = softmax - one_hot(target), rounded once.
            logits_grad = log_probs.exp_().scatter_(1, index, target_log_probs.exp() - 1).to(rows.dtype)
            rows_grad[chunk] = (logits_grad @ weight_cast) * counts[chunk]
            weight_grad += logits_grad.t() @ (rows[chunk] * counts[chunk])
        ctx.save_for_backward(rows_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * gradients[0] for gradient in ctx.saved_tensors), None
