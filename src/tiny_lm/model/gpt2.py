"""GPT-2: learned positions, LayerNorm before each half of a block, GELU, tied head.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Logits equal those of
transformers' GPT2LMHeadModel. Grouped-query attention through `n_kv_heads` is ours, not the paper's.

    token embedding + positions -> dropout
    n_layers x  (x + dropout(attention(norm(x))),  x + dropout(feedforward(norm(x))))
    norm -> head, whose weight is the token embedding's
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from tiny_lm.model.attention import Cache, LayerCache, MultiHeadAttention, check_heads
from tiny_lm.model.feedforward import FeedForward
from tiny_lm.model.normalization import LayerNorm
from tiny_lm.model.position import LearnedPositionalEmbedding, check_fits
from tiny_lm.params import check

NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class GPT2Params:
    architecture: Literal["gpt2"]
    context_length: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    qkv_bias: bool
    embedding_dropout: float
    attention_dropout: float
    residual_dropout: float

    def __post_init__(self) -> None:
        check(1 <= self.context_length <= 2**20, "context_length", self.context_length, "from 1 to 1048576")
        for key in ("d_model", "n_layers", "d_ff"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        check_heads(self.d_model, self.n_heads, self.n_kv_heads)
        for key in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check(0 <= getattr(self, key) < 1, key, getattr(self, key), "from 0 to less than 1")


class GPT2Block(nn.Module):
    def __init__(self, params: GPT2Params) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(params.d_model, NORM_EPS)
        self.attention = MultiHeadAttention(params, qkv_bias=params.qkv_bias, out_bias=True, rope=None)
        self.feedforward_norm = LayerNorm(params.d_model, NORM_EPS)
        self.feedforward = FeedForward(params.d_model, params.d_ff)
        self.dropout = nn.Dropout(params.residual_dropout)

    def forward(self, x: Tensor, start: int, cache: LayerCache | None) -> Tensor:  # (B, T, d_model) throughout
        x = x + self.dropout(self.attention(self.attention_norm(x), start, cache))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class GPT2(nn.Module):
    def __init__(self, params: GPT2Params, vocab_size: int) -> None:
        super().__init__()
        self.params = params
        self.vocab_size = vocab_size
        self.token_emb = nn.Embedding(vocab_size, params.d_model)
        self.position_emb = LearnedPositionalEmbedding(params.context_length, params.d_model)
        self.embedding_dropout = nn.Dropout(params.embedding_dropout)
        self.blocks = nn.ModuleList(GPT2Block(params) for _ in range(params.n_layers))
        self.norm = LayerNorm(params.d_model, NORM_EPS)
        self.lm_head = nn.Linear(params.d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_emb.weight

    def features(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens (B, T) -> what the head reads, (B, T, d_model).

        With a cache, tokens are the ones that follow those in it. ValueError beyond context_length.
        """
        start = 0 if cache is None else cache.length
        check_fits(start + tokens.shape[1], self.params.context_length)
        x = self.token_emb(tokens) + self.position_emb(start, tokens.shape[1])  # (B, T, d_model)
        x = self.embedding_dropout(x)
        for index, block in enumerate(self.blocks):
            x = block(x, start, None if cache is None else cache.layer(index))
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """tokens (B, T) -> logits (B, T, vocab_size)."""
        return self.lm_head(self.features(tokens, cache))
