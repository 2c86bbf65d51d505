"""GPT-2: learned positions, LayerNorm before each half of a block, GELU, tied head.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Logits equal those of
transformers' GPT2LMHeadModel. Grouped-query attention through `n_kv_heads` is ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_lm.io.params import check
from tiny_lm.model.transformer import (
    Block,
    FeedForward,
    LayerNorm,
    LearnedPositionalEmbedding,
    MultiHeadAttention,
    Transformer,
    TransformerParams,
)

NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class GPT2Params(TransformerParams):
    architecture: Literal["gpt2"] = "gpt2"  # gpt2 | llama3 | qwen3
    context_length: int = 1024  # tokens
    d_model: int = 768
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 4  # key and value heads: n_heads is MHA, which export needs; fewer is GQA, 1 is MQA
    d_ff: int = 3072  # width of the feed-forward layer
    qkv_bias: bool = False
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.d_ff >= 1, "d_ff", self.d_ff, "at least 1")

    @property
    def feedforward_width(self) -> int:
        return self.d_ff

    def build(self, vocab_size: int) -> GPT2:
        return GPT2(self, vocab_size)


class GPT2Block(Block):
    def __init__(self, params: GPT2Params) -> None:
        super().__init__(
            params,
            MultiHeadAttention(params, qkv_bias=params.qkv_bias, out_bias=True),
            FeedForward(params.d_model, params.d_ff),
            norms=[LayerNorm(params.d_model, NORM_EPS) for _ in range(2)],
        )


class GPT2(Transformer):
    def __init__(self, params: GPT2Params, vocab_size: int) -> None:
        super().__init__(
            params,
            vocab_size,
            [GPT2Block(params) for _ in range(params.n_layers)],
            norm=LayerNorm(params.d_model, NORM_EPS),
            position_emb=LearnedPositionalEmbedding(params.context_length, params.d_model),
        )
