"""Llama 3: RMSNorm before each half of a block, grouped-query attention with RoPE, SwiGLU, no biases, tied head.

Source: Grattafiori et al. 2024 (arXiv 2407.21783). Logits equal those of transformers' LlamaForCausalLM.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from tiny_lm.config import check
from tiny_lm.model.attention import MultiHeadAttention
from tiny_lm.model.feedforward import SwiGLU
from tiny_lm.model.normalization import RMSNorm
from tiny_lm.model.position import RoPE
from tiny_lm.model.transformer import Block, Transformer, TransformerParams


@dataclass(frozen=True, kw_only=True)
class Llama3Params(TransformerParams):
    architecture: Literal["llama3"] = "llama3"  # gpt2 | llama3
    d_ff: int | None = 384  # width of SwiGLU; null: 8/3 of d_model, rounded up to a multiple of 256
    rope_theta: float = 1000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        even = self.d_model // self.n_heads % 2 == 0
        check(even, "n_heads", self.n_heads, f"such that d_model / n_heads is even (RoPE); d_model = {self.d_model}")
        check(self.d_ff is None or self.d_ff >= 1, "d_ff", self.d_ff, "at least 1, or null for 8/3 of d_model")
        for key in ("rope_theta", "norm_eps"):
            check(getattr(self, key) > 0, key, getattr(self, key), "more than 0")

    @property
    def feedforward_width(self) -> int:
        """d_ff, or where that is None, 8/3 of d_model rounded up to a multiple of 256."""
        return self.d_ff if self.d_ff is not None else -(-8 * self.d_model // (3 * 256)) * 256


class Llama3Block(Block):
    def __init__(self, params: Llama3Params, rope: RoPE) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(params.d_model, params.norm_eps)
        self.attention = MultiHeadAttention(params, qkv_bias=False, out_bias=False, rope=rope)
        self.feedforward_norm = RMSNorm(params.d_model, params.norm_eps)
        self.feedforward = SwiGLU(params.d_model, params.feedforward_width)
        self.dropout = nn.Dropout(params.residual_dropout)


class Llama3(Transformer):
    def __init__(self, params: Llama3Params, vocab_size: int) -> None:
        rope = RoPE(params.context_length, params.d_model // params.n_heads, params.rope_theta)  # one table for all
        blocks = [Llama3Block(params, rope) for _ in range(params.n_layers)]
        super().__init__(params, vocab_size, blocks, RMSNorm(params.d_model, params.norm_eps))
