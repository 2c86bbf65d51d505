"""Llama 3: RMSNorm before each half of a block, grouped-query attention with RoPE, SwiGLU, head tied or not.

Source: Grattafiori et al. 2024 (arXiv 2407.21783). Logits equal those of transformers' LlamaForCausalLM, whose option
`attention_bias` we have too, because short runs learn more with it (init.py).
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
class Llama3Params(TransformerParams):
    architecture: Literal["llama3"] = "llama3"  # gpt2 | llama3 | qwen3
    d_ff: int | None = 384  # width of SwiGLU; null: 8/3 of d_model, rounded up to a multiple of 256
    rope_theta: float = 1000.0
    norm_eps: float = 1e-6
    attention_bias: bool = True  # of queries, keys, values and outputs; false: as in Meta's models
    tie_embeddings: bool = False  # true: the head shares the weight of the token embedding

    def __post_init__(self) -> None:
        super().__post_init__()
        even = self.dim_per_head % 2 == 0
        check(even, "n_heads", self.n_heads, f"such that d_model / n_heads is even (RoPE); d_model = {self.d_model}")
        check(self.d_ff is None or self.d_ff >= 1, "d_ff", self.d_ff, "at least 1, or null for 8/3 of d_model")
        for key in ("rope_theta", "norm_eps"):
            check(getattr(self, key) > 0, key, getattr(self, key), "more than 0")

    @property
    def ties_embeddings(self) -> bool:
        return self.tie_embeddings

    @property
    def feedforward_width(self) -> int:
        """d_ff, or if that is None, 8/3 of d_model rounded up to a multiple of 256."""
        return self.d_ff if self.d_ff is not None else -(-8 * self.d_model // (3 * 256)) * 256

    def build(self, vocab_size: int) -> Llama3:
        return Llama3(self, vocab_size)


class Llama3Block(Block):
    def __init__(self, params: Llama3Params) -> None:
        super().__init__(
            params,
            MultiHeadAttention(params, qkv_bias=params.attention_bias, out_bias=params.attention_bias),
            SwiGLU(params.d_model, params.feedforward_width),
            norms=[RMSNorm(params.d_model, params.norm_eps) for _ in range(2)],
        )


class Llama3(Transformer):
    def __init__(self, params: Llama3Params, vocab_size: int) -> None:
        super().__init__(
            params,
            vocab_size,
            [Llama3Block(params) for _ in range(params.n_layers)],
            norm=RMSNorm(params.d_model, params.norm_eps),
            rope=RoPE(params.context_length, params.dim_per_head, params.rope_theta),
        )
