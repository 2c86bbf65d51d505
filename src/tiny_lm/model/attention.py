"""Causal self-attention: MHA, GQA and MQA in one class, through `n_kv_heads`.

Sources: Vaswani et al. 2017 (arXiv 1706.03762), Shazeer 2019 for MQA (arXiv 1911.02150), Ainslie et al. 2023 for
GQA (arXiv 2305.13245). Without dropout `scaled_dot_product_attention` repeats no keys or values in memory.

Shapes: B batch, T tokens, H heads, K key/value heads, D head_dim.
"""

import torch
from torch import Tensor, nn

from tiny_lm.model.position import RoPE
from tiny_lm.model.transformer import TransformerParams

BLOCK, SHORT = 128, 1024  # queries at a time; tokens up to which what they share out is little


class MultiHeadAttention(nn.Module):
    """Attention of every position to itself and the ones before it. (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, params: TransformerParams, *, qkv_bias: bool, out_bias: bool, rope: RoPE | None) -> None:
        super().__init__()
        self.head_dim = params.d_model // params.n_heads
        self.dropout = params.attention_dropout
        self.W_q = nn.Linear(params.d_model, params.n_heads * self.head_dim, bias=qkv_bias)
        self.W_k = nn.Linear(params.d_model, params.n_kv_heads * self.head_dim, bias=qkv_bias)
        self.W_v = nn.Linear(params.d_model, params.n_kv_heads * self.head_dim, bias=qkv_bias)
        self.out_proj = nn.Linear(params.d_model, params.d_model, bias=out_bias)
        self.rope = rope

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        projected = (layer(x).view(batch, length, -1, self.head_dim) for layer in (self.W_q, self.W_k, self.W_v))
        q, k, v = (part.transpose(1, 2) for part in projected)  # (B, H, T, D), (B, K, T, D), (B, K, T, D)
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        dropout = self.dropout if self.training else 0.0
        if q.dtype == torch.bfloat16 and x.device.type == "cpu" and length <= SHORT and dropout == 0:
            out = _attend_in_blocks(q, k, v)  # (B, H, T, D)
        else:
            grouped = k.shape[1] != q.shape[1]
            out = nn.functional.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, enable_gqa=grouped)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, -1))


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in half the time of torch's kernel for bfloat16 on a CPU, its scores rounded to it (docs/log.md): blocks
    of queries, with keys up to their end. What they share out is kept for the backward pass: little in short texts.
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
