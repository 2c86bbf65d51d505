"""What the architectures share: sizes, the residual block, and the way from tokens to logits.

token embedding (GPT-2: + positions) -> dropout
n_layers x  (x + dropout(attention(norm(x))),  x + dropout(feedforward(norm(x))))
norm -> head, whose weight is the token embedding's
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from tiny_lm.config import check


@dataclass(frozen=True, kw_only=True)
class TransformerParams:
    architecture: str
    context_length: int = 256  # tokens
    d_model: int = 128
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 2  # key and value heads: n_heads is MHA, fewer is GQA, 1 is MQA
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        check(1 <= self.context_length <= 2**20, "context_length", self.context_length, "from 1 to 1048576")
        for key in ("d_model", "n_layers"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key, whole in (("n_heads", "d_model"), ("n_kv_heads", "n_heads")):
            part, total = getattr(self, key), getattr(self, whole)
            check(part >= 1 and total % part == 0, key, part, f"a divisor of {whole} = {total}")
        for key in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check(0 <= getattr(self, key) < 1, key, getattr(self, key), "from 0 to less than 1")

    @property
    def dim_per_head(self) -> int:
        return self.d_model // self.n_heads


class Block(nn.Module):
    """Adds attention and feed-forward layer to the residual stream, each of its norm. (B, T, d_model) throughout."""

    attention_norm: nn.Module
    attention: nn.Module
    feedforward_norm: nn.Module
    feedforward: nn.Module
    dropout: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class Transformer(nn.Module):
    def __init__(self, params: TransformerParams, vocab_size: int, blocks: Iterable[Block], norm: nn.Module) -> None:
        super().__init__()
        self.params = params
        self.vocab_size = vocab_size
        self.token_emb = nn.Embedding(vocab_size, params.d_model)
        self.embedding_dropout = nn.Dropout(params.embedding_dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.lm_head = nn.Linear(params.d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_emb.weight

    def flops_per_token(self) -> float:
        """Of a token's forward and backward pass, as PaLM counts (Chowdhery et al. 2022): 6 for each weight that
        multiplies, which learned positions do not, and 12·L·d·T for attention over a full context.
        """
        p, positions = self.params, "position_emb.weight"
        weights = sum(weight.numel() for name, weight in self.named_parameters() if name != positions)
        return 6.0 * weights + 12.0 * p.n_layers * p.d_model * p.context_length

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, d_model)."""
        return self.token_emb(tokens)

    def features(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, d_model) for the head. ValueError if there are too many."""
        length, most = tokens.shape[1], self.params.context_length
        if length > most:
            raise ValueError(f"an input of {length} tokens is longer than the model's context_length = {most}")
        return self.transform(self.embed(tokens))

    def transform(self, x: Tensor) -> Tensor:
        """What `embed` gives (B, T, d_model) -> (B, T, d_model) for the head."""
        x = self.embedding_dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, vocab_size)."""
        return self.lm_head(self.features(tokens))
