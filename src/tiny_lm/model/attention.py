"""Causal self-attention: MHA, GQA and MQA in one class, through `n_kv_heads`.

Sources: Vaswani et al. 2017 (arXiv 1706.03762), Shazeer 2019 for MQA (arXiv 1911.02150), Ainslie et al. 2023 for
GQA (arXiv 2305.13245). `scaled_dot_product_attention` with `enable_gqa` repeats no keys or values in memory.

Shapes: B batch, T tokens, H heads, K key/value heads, D head_dim.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_lm.model.position import RoPE
from tiny_lm.model.transformer import TransformerParams


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
        q = self.W_q(x).view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.W_k(x).view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        v = self.W_v(x).view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, K, T, D)
        dtype = q.dtype
        if x.device.type == "cpu":  # whose attention kernel is 1.4 to 1.6 times as fast in float32 as in bfloat16
            q, k, v = q.float(), k.float(), v.float()
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        dropout = self.dropout if self.training else 0.0
        grouped = k.shape[1] != q.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            out = F.scaled_dot_product_attention(
                q, k, v, None, dropout, is_causal=True, enable_gqa=grouped
            )  # (B, H, T, D)
        return self.out_proj(out.to(dtype).transpose(1, 2).reshape(batch, length, -1))
