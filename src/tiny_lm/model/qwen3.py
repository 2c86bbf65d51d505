"""Qwen 3: Llama 3's block with RMSNorm on the queries and keys of each head before RoPE, and a free head dimension.

Source: Yang et al. 2025 (arXiv 2505.09388). Logits equal those of transformers' Qwen3ForCausalLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_lm.io.params import check
from tiny_lm.model.transformer import (
    Block,
    MultiHeadAttention,
    RMSNorm,
    RoPE,
    SwiGLU,
    Transformer,
    TransformerParams,
)


@dataclass(frozen=True, kw_only=True)
class Qwen3Params(TransformerParams):
    architecture: Literal["qwen3"] = "qwen3"  # gpt2 | llama3 | qwen3
    head_dim: int | None = 32  # of queries, keys and values; null: d_model / n_heads
    d_ff: int = 384  # width of SwiGLU
    rope_theta: float = 1000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # false: the head has its own weight

    def __post_init__(self) -> None:
        super().__post_init__()
        even = self.dim_per_head >= 2 and self.dim_per_head % 2 == 0
        check(even, "head_dim", self.head_dim, "even (RoPE), or null for d_model / n_heads, if that is even")
        check(self.d_ff >= 1, "d_ff", self.d_ff, "at least 1")
        for key in ("rope_theta", "norm_eps"):
            check(getattr(self, key) > 0, key, getattr(self, key), "more than 0")

    @property
    def divisors(self) -> tuple[tuple[str, str], ...]:
        return super().divisors if self.head_dim is None else (("n_kv_heads", "n_heads"),)

    @property
    def dim_per_head(self) -> int:
        return super().dim_per_head if self.head_dim is None else self.head_dim

    @property
    def ties_embeddings(self) -> bool:
        return self.tie_embeddings

    @property
    def feedforward_width(self) -> int:
        return self.d_ff

    def build(self, vocab_size: int) -> Qwen3:
        return Qwen3(self, vocab_size)


class Qwen3Block(Block):
    def __init__(self, params: Qwen3Params) -> None:
        super().__init__(
            params,
            MultiHeadAttention(params, qkv_bias=False, out_bias=False, qk_norm_eps=params.norm_eps),
            SwiGLU(params.d_model, params.d_ff),
            norms=[RMSNorm(params.d_model, params.norm_eps) for _ in range(2)],
        )


class Qwen3(Transformer):
    def __init__(self, params: Qwen3Params, vocab_size: int) -> None:
        super().__init__(
            params,
            vocab_size,
            [Qwen3Block(params) for _ in range(params.n_layers)],
            norm=RMSNorm(params.d_model, params.norm_eps),
            rope=RoPE(params.context_length, params.dim_per_head, params.rope_theta),
        )
