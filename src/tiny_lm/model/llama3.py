"""Llama 3: RMSNorm before each half of a block, grouped-query attention with RoPE, SwiGLU, no biases, tied head.

Source: Grattafiori et al. 2024 (arXiv 2407.21783). Logits equal those of transformers' LlamaForCausalLM.

    token embedding -> dropout
    n_layers x  (x + dropout(attention(norm(x))),  x + dropout(feedforward(norm(x))))
    norm -> head, whose weight is the token embedding's
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from tiny_lm.model.attention import Cache, LayerCache, MultiHeadAttention, check_heads
from tiny_lm.model.feedforward import SwiGLU
from tiny_lm.model.normalization import RMSNorm
from tiny_lm.model.position import RoPE, check_fits
from tiny_lm.params import check


@dataclass(frozen=True, kw_only=True)
class Llama3Params:
    architecture: Literal["llama3"]
    context_length: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int | None  # None: see feedforward_width
    rope_theta: float
    norm_eps: float
    embedding_dropout: float
    attention_dropout: float
    residual_dropout: float

    def __post_init__(self) -> None:
        check(1 <= self.context_length <= 2**20, "context_length", self.context_length, "from 1 to 1048576")
        for key in ("d_model", "n_layers"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        check_heads(self.d_model, self.n_heads, self.n_kv_heads)
        even = self.d_model // self.n_heads % 2 == 0
        check(even, "n_heads", self.n_heads, f"such that d_model / n_heads is even (RoPE); d_model = {self.d_model}")
        check(self.d_ff is None or self.d_ff >= 1, "d_ff", self.d_ff, "at least 1, or null for 8/3 of d_model")
        for key in ("rope_theta", "norm_eps"):
            check(getattr(self, key) > 0, key, getattr(self, key), "more than 0")
        for key in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check(0 <= getattr(self, key) < 1, key, getattr(self, key), "from 0 to less than 1")

    @property
    def feedforward_width(self) -> int:
        """d_ff, or where that is None, 8/3 of d_model rounded up to a multiple of 256."""
        return self.d_ff if self.d_ff is not None else -(-8 * self.d_model // (3 * 256)) * 256


class Llama3Block(nn.Module):
    def __init__(self, params: Llama3Params, rope: RoPE) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(params.d_model, params.norm_eps)
        self.attention = MultiHeadAttention(params, qkv_bias=False, out_bias=False, rope=rope)
        self.feedforward_norm = RMSNorm(params.d_model, params.norm_eps)
        self.feedforward = SwiGLU(params.d_model, params.feedforward_width)
        self.dropout = nn.Dropout(params.residual_dropout)

    def forward(self, x: Tensor, start: int, cache: LayerCache | None) -> Tensor:  # (B, T, d_model) throughout
        x = x + self.dropout(self.attention(self.attention_norm(x), start, cache))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class Llama3(nn.Module):
    def __init__(self, params: Llama3Params, vocab_size: int) -> None:
        super().__init__()
        self.params = params
        self.vocab_size = vocab_size
        rope = RoPE(params.context_length, params.d_model // params.n_heads, params.rope_theta)  # one table for all
        self.token_emb = nn.Embedding(vocab_size, params.d_model)
        self.embedding_dropout = nn.Dropout(params.embedding_dropout)
        self.blocks = nn.ModuleList(Llama3Block(params, rope) for _ in range(params.n_layers))
        self.norm = RMSNorm(params.d_model, params.norm_eps)
        self.lm_head = nn.Linear(params.d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_emb.weight

    def features(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens (B, T) -> what the head reads, (B, T, d_model).

        With a cache, tokens are the ones that follow those in it. ValueError beyond context_length.
        """
        start = 0 if cache is None else cache.length
        check_fits(start + tokens.shape[1], self.params.context_length)
        x = self.embedding_dropout(self.token_emb(tokens))  # (B, T, d_model)
        for index, block in enumerate(self.blocks):
            x = block(x, start, None if cache is None else cache.layer(index))
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens (B, T) -> logits (B, T, vocab_size)."""
        return self.lm_head(self.features(tokens, cache))
