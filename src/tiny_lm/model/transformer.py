"""The decoder-only transformer, in the order in which data flows through it.

    tokens -> embedding (+ learned positions) -> dropout
           -> n_layers x [x + attention(norm(x)), then x + feedforward(norm(x))]
           -> norm -> head -> logits -> loss

An architecture (gpt2.py, llama3.py, qwen3.py) is a choice of the parts below. This is the only forward pass: training,
evaluation and generation share it, generation with a `KVCache`. Code that exists only for speed is in kernels.py, where
each docstring gives the plain form; you can skip that file.

Shapes: B batch, T tokens, S positions attended to, H heads, K key/value heads, D head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_lm.io.params import check
from tiny_lm.model import kernels
from tiny_lm.model.sampled_softmax import VocabularySample, sample_vocabulary

Rotation = tuple[Tensor, Tensor]  # RoPE's cosines and sines at the positions of the tokens, broadcast over heads


@dataclass(frozen=True, kw_only=True)
class TransformerParams:
    """The `model` section of params.yaml: the params of all architectures."""

    architecture: str
    context_length: int = 256  # tokens
    d_model: int = 128
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 4  # key and value heads: n_heads is MHA, fewer is GQA, 1 is MQA
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        check(1 <= self.context_length <= 2**20, "context_length", self.context_length, "from 1 to 1048576")
        for key in ("d_model", "n_layers", "n_heads"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key, whole in self.divisors:
            part, total = getattr(self, key), getattr(self, whole)
            check(part >= 1 and total % part == 0, key, part, f"a divisor of {whole} = {total}")
        for key in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check(0 <= getattr(self, key) < 1, key, getattr(self, key), "from 0 to less than 1")

    @property
    def ties_embeddings(self) -> bool:
        """Whether head and token embedding share their weight (Press & Wolf 2016, arXiv 1608.05859)."""
        return True

    @property
    def divisors(self) -> tuple[tuple[str, str], ...]:
        """Pairs of fields; the first must divide the second."""
        return ("n_heads", "d_model"), ("n_kv_heads", "n_heads")

    @property
    def dim_per_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def feedforward_width(self) -> int:
        raise NotImplementedError

    def build(self, vocab_size: int) -> Transformer:
        """The model, before `initialize` sets its weights."""
        raise NotImplementedError


# Positions


class LearnedPositionalEmbedding(nn.Module):
    """One learned vector per position (GPT-2)."""

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context_length, d_model))

    def forward(self, positions: Tensor | int) -> Tensor:
        """The vectors of the first `positions` positions, (T, d_model), or of the given ones, (B, T, d_model)."""
        return _at(positions, self.weight)


class RoPE(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    In the split-halves layout of transformers: dimensions i and i + D/2 of a head are rotated as a pair, by the angle
    position * theta^(-2i/D).
    """

    table: Tensor

    def __init__(self, context_length: int, head_dim: int, theta: float) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(context_length, 2 * head_dim), persistent=False)
        if self.table.is_meta:  # computing on the meta device makes torch import its compiler, which takes a second
            return
        frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)  # (context_length, D/2)
        cos, sin = angles.cos(), angles.sin()
        self.table.copy_(torch.cat((cos, cos, -sin, sin), dim=-1))

    def forward(self, positions: Tensor | int) -> Rotation:
        """The rotation of the first `positions` positions, (T, 1, D) each, or of the given ones, (B, T, 1, D) each."""
        cos, sin = _at(positions, self.table).unsqueeze(-2).chunk(2, dim=-1)
        return cos, sin


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, T, H, D) -> the same shape and dtype: (x1 cos - x2 sin, x2 cos + x1 sin) of the halves x1, x2 of a head."""
    cos, sin = rotation if x.dtype == rotation[0].dtype else (table.to(x.dtype) for table in rotation)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _at(positions: Tensor | int, table: Tensor) -> Tensor:
    if isinstance(positions, Tensor):
        return torch.embedding(table, positions)
    if positions > len(table):
        raise ValueError(f"{positions} positions do not fit in the model's context_length = {len(table)}")
    return table[:positions]


# Attention


class KVCache:
    """Keys and values of earlier tokens, so that only new tokens need to be computed.

    Holds `batch` texts of up to `max_len` positions each, allocated once. Every text starts at position 0, so texts of
    different lengths need no padding.
    """

    def __init__(self, params: TransformerParams, batch: int, max_len: int, like: Tensor) -> None:
        self.batch = batch
        heads = torch.arange(batch * params.n_kv_heads, device=like.device).view(batch, -1)
        self.starts = heads * max_len  # (B, K), where each row and head starts in the flat memory of a layer
        self.key = object()  # kernels.Linear keeps its prepared weights as long as it gets the same key
        # (L, 2, B, K, S, D), keys before values. Zeros, because masked positions must be finite too; the positions of a
        # head are contiguous, because attention is then twice as fast.
        self.memory = like.new_zeros(params.n_layers, 2, batch, params.n_kv_heads, max_len, params.dim_per_head)
        self.layers = [(both[0], both[1], both[0].flatten(0, 2), both[1].flatten(0, 2)) for both in self.memory]

    def prefill(self, rows: Tensor, longest: int, lengths: Tensor | None = None) -> CacheSlots:
        """For new texts in `rows` (B,), padded to `longest`. With `lengths` (B,), the feed-forward part of the last
        layer computes only the last token of each text.
        """
        positions = torch.arange(longest, device=rows.device).expand(len(rows), -1)  # (B, T)
        index = (self.starts[rows, :, None] + positions[:, None]).flatten()
        firsts = torch.arange(len(rows), device=rows.device) * longest
        last = None if lengths is None else firsts + lengths - 1
        return CacheSlots(self, len(rows), positions, index, 0, None, last)

    def step(self, positions: Tensor, span: int, masked: bool) -> CacheSlots:
        """For one token at `positions` (B,) in each of the first B rows. It attends to the first `span` positions, or
        with `masked`, to those up to its own.
        """
        rows = len(positions)
        index = (self.starts[:rows] + positions[:, None]).flatten()
        mask = None
        if masked:
            future = torch.arange(span, device=positions.device) > positions[:, None]  # (B, S)
            mask = torch.zeros(future.shape, device=positions.device).masked_fill_(future, -torch.inf)[:, None, None]
        return CacheSlots(self, rows, positions[:, None], index, span, mask, None)

    def move(self, source: int, target: int) -> None:
        """Moves the text in row `source` to row `target`."""
        with torch.inference_mode():
            self.memory[:, :, target] = self.memory[:, :, source]


@dataclass(frozen=True)
class CacheSlots:
    """The places in a cache for the tokens of one forward pass, and the positions that they attend to."""

    cache: KVCache
    rows: int  # B
    positions: Tensor  # (B, T)
    index: Tensor  # (B * K * T,), into the cache's rows, heads and positions
    span: int  # positions attended to, from the first; 0: the tokens attend to each other, causally
    mask: Tensor | None  # (B, 1, 1, S), added to the scores
    last: Tensor | None  # (B,), index into B * T of each text's last token, if only that is needed; None: all are

    @property
    def key(self) -> object:
        """The same object for all forward passes with one cache."""
        return self.cache.key

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v, (B, K, T, D) each; returns the keys and values to attend to, (B, K, S, D) each."""
        keys, values, flat_keys, flat_values = self.cache.layers[layer]
        flat_keys.index_copy_(0, self.index, k.flatten(0, 2))
        flat_values.index_copy_(0, self.index, v.flatten(0, 2))
        if self.span == 0:
            return k, v
        if self.rows < self.cache.batch:
            keys, values = keys[: self.rows], values[: self.rows]
        return keys.narrow(2, 0, self.span), values.narrow(2, 0, self.span)

    def select_last(self, layer: int, x: Tensor) -> Tensor:
        """x (B, T, d_model), in the last layer only of each text's last token, (B, 1, d_model): no other is needed."""
        if self.last is None or layer + 1 < len(self.cache.layers):
            return x
        return x.flatten(0, 1).index_select(0, self.last)[:, None]


class MultiHeadAttention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv 1706.03762): a position attends to itself and earlier ones.

    MHA if n_kv_heads = n_heads; GQA (Ainslie et al. 2023, arXiv 2305.13245) if it is smaller, so that several heads
    share keys and values; MQA (Shazeer 2019, arXiv 1911.02150) if it is 1.
    """

    def __init__(
        self, params: TransformerParams, *, qkv_bias: bool, out_bias: bool, qk_norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = params.n_heads, params.n_kv_heads, params.dim_per_head
        self.dropout = params.attention_dropout
        self.W_q = nn.Linear(params.d_model, params.n_heads * self.head_dim, bias=qkv_bias)
        self.W_k = nn.Linear(params.d_model, params.n_kv_heads * self.head_dim, bias=qkv_bias)
        self.W_v = nn.Linear(params.d_model, params.n_kv_heads * self.head_dim, bias=qkv_bias)
        self.qkv = kernels.Linear(self.W_q, self.W_k, self.W_v)
        self.out_proj = nn.Linear(params.n_heads * self.head_dim, params.d_model, bias=out_bias)
        self.out = kernels.Linear(self.out_proj)
        # QK-norm: one RMSNorm for the queries of all heads, one for their keys (Henry et al. 2020, arXiv 2010.04245)
        self.q_norm = RMSNorm(self.head_dim, qk_norm_eps) if qk_norm_eps is not None else None
        self.k_norm = RMSNorm(self.head_dim, qk_norm_eps) if qk_norm_eps is not None else None

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, cache: CacheSlots | None = None, layer: int = 0
    ) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        batch, length, _ = x.shape
        key = None if cache is None else cache.key
        heads = self.qkv(x, key).view(batch, length, -1, self.head_dim)
        sizes = self.n_heads, self.n_kv_heads
        qk, v = heads.split_with_sizes((sum(sizes), self.n_kv_heads), dim=2)  # (B, T, H + K, D), (B, T, K, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split_with_sizes(sizes, dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k = qk.split_with_sizes(sizes, dim=2)  # (B, T, H, D), (B, T, K, D)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, T, D) each
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, K, S, D) each
        if cache is not None and cache.span:  # one query per head: heads that share keys become queries of one head
            q = q.reshape(batch, self.n_kv_heads, -1, self.head_dim)  # (B, K, H/K, D)
            out = F.scaled_dot_product_attention(q, k, v, cache.mask)
        else:
            q = q.transpose(1, 2)  # (B, H, T, D)
            out = kernels.causal_attention(q, k, v, self.dropout if self.training else 0.0).transpose(1, 2)
        return self.out(out.reshape(batch, length, -1), key)


# Feed-forward


class FeedForward(nn.Module):
    """fc2(GELU(fc1 x)), with biases (Radford et al. 2019), GELU by tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff)
        self.fc2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor, cache: CacheSlots | None = None) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """w2(SiLU(w1 x) * w3 x), without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff, bias=False)  # gate
        self.w2 = nn.Linear(d_ff, d_model, bias=False)  # down
        self.w3 = nn.Linear(d_model, d_ff, bias=False)  # up
        self.gate_and_up, self.down = kernels.Linear(self.w1, self.w3), kernels.Linear(self.w2)

    def forward(self, x: Tensor, cache: CacheSlots | None = None) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        key = None if cache is None else cache.key
        gate, up = self.gate_and_up(x, key).chunk(2, dim=-1)  # (B, T, d_ff) each
        return self.down(F.silu(gate) * up, key)


# Norms


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1, then a learned scale and shift (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:
        return kernels.to_autocast_dtype(super().forward(x))


class RMSNorm(nn.RMSNorm):
    """Root mean square 1, then a learned scale (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__(d_model, eps)
        self.eps_tensor = torch.tensor(eps)  # stays on the CPU

    def forward(self, x: Tensor) -> Tensor:
        normed = kernels.rms_norm(x, self.weight, self.eps_tensor) if x.is_cpu else super().forward(x)
        return kernels.to_autocast_dtype(normed)


# Block and model


class Block(nn.Module):
    """Pre-norm: adds attention of the normalized residual stream to it, then the feed-forward layer likewise."""

    def __init__(
        self,
        params: TransformerParams,
        attention: MultiHeadAttention,
        feedforward: FeedForward | SwiGLU,
        norms: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = norms
        self.attention = attention
        self.feedforward = feedforward
        self.dropout = params.residual_dropout

    def forward(self, x: Tensor, rotation: Rotation | None, cache: CacheSlots | None, layer: int) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        added = self.attention(self.attention_norm(x), rotation, cache, layer)
        x = x + kernels.dropout(added, self.dropout, self.training)
        if cache is not None:
            x = cache.select_last(layer, x)
        added = self.feedforward(self.feedforward_norm(x), cache)
        return x + kernels.dropout(added, self.dropout, self.training)


class Transformer(nn.Module):
    """tokens -> logits, with either `position_emb` or `rope` for positions."""

    def __init__(
        self,
        params: TransformerParams,
        vocab_size: int,
        blocks: Sequence[Block],
        norm: nn.Module,
        *,
        position_emb: LearnedPositionalEmbedding | None = None,
        rope: RoPE | None = None,
    ) -> None:
        super().__init__()
        self.params = params
        self.vocab_size = vocab_size
        self.token_emb = nn.Embedding(vocab_size, params.d_model)
        self.position_emb = position_emb
        self.rope = rope
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.lm_head = nn.Linear(params.d_model, vocab_size, bias=False)
        if params.ties_embeddings:
            self.lm_head.weight = self.token_emb.weight
        self.head = kernels.Linear(self.lm_head)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, V)."""
        return self.head(self.features(tokens))

    def next_logits(self, tokens: Tensor, cache: CacheSlots) -> Tensor:
        """tokens (B, T) that follow those in the cache -> logits of the token that comes next in each text, (B, V)."""
        return self.head(self.features(tokens, cache), cache.key)[:, 0]

    def features(self, tokens: Tensor, cache: CacheSlots | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, d_model), the input of the head."""
        return self.transform(self.embed(tokens, cache), cache)

    def embed(self, tokens: Tensor, cache: CacheSlots | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, d_model). ValueError if T is larger than the context length."""
        length, limit = tokens.shape[1], self.params.context_length
        if length > limit:
            raise ValueError(f"input of {length} tokens is longer than the model's context_length = {limit}")
        x = self.token_emb(tokens)
        if self.position_emb is not None:
            x = x + self.position_emb(tokens.shape[1] if cache is None else cache.positions)
        return x

    def transform(self, x: Tensor, cache: CacheSlots | None = None) -> Tensor:
        """Embedded tokens (B, T, d_model) -> the input of the head (B, T, d_model)."""
        rotation = None
        if self.rope is not None:
            rotation = self.rope(x.shape[1] if cache is None else cache.positions)
        x = kernels.dropout(x, self.params.embedding_dropout, self.training)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, cache, layer)
        return self.norm(x)

    def summed_loss(self, tokens: Tensor, targets: Tensor, vocabulary: float = 1.0) -> Tensor:
        """Next-token cross-entropy in nats, summed over the targets (B, T); targets of -100 are ignored.

        With a fraction of the vocabulary, only that many tokens and the targets compete.
        """
        sample = None if vocabulary == 1 else sample_vocabulary(targets, self.vocab_size, vocabulary)
        return self.loss_of_embedded(self.embed(tokens), targets, sample)

    def loss_of_embedded(self, x: Tensor, targets: Tensor, sample: VocabularySample | None = None) -> Tensor:
        """`summed_loss` of embedded tokens (B, T, d_model)."""
        features, weight = self.transform(x), self.lm_head.weight
        if sample is not None:
            weight, targets = weight.index_select(0, sample.ids), sample.targets  # (S, d_model), (B, T)
        return kernels.summed_cross_entropy(features, weight, targets)

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The loss of each target in nats, float32 (B, T), 0 for targets of -100."""
        return self.token_predictions(tokens, targets)[0]

    @torch.no_grad()
    def token_predictions(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`token_losses`, and at each position the probability of the most probable token, and the token, (B, T)."""
        return kernels.predictions(self.features(tokens), self.lm_head.weight, targets)

    def compile_loss(self) -> None:
        """Compiles `summed_loss` without the embedding, whose compiled gradient is slow for frequent tokens."""
        self.loss_of_embedded = torch.compile(self.loss_of_embedded)  # type: ignore[method-assign]

    def hidden_matrices(self) -> dict[int, list[nn.Parameter]]:
        """The weights of the blocks' linear layers, which Muon trains, by the number of independent maps in each: one
        per head for queries and keys, which are compared within a head only, else one.
        """
        matrices: dict[int, list[nn.Parameter]] = {}
        for name, weight in self.blocks.named_parameters():
            if weight.dim() == 2:
                maps = {"W_q": self.params.n_heads, "W_k": self.params.n_kv_heads}.get(name.split(".")[-2], 1)
                matrices.setdefault(maps, []).append(weight)
        return matrices

    def flops_per_token(self, vocabulary: float = 1.0) -> float:
        """FLOPs of the forward and backward pass per token, counted as in PaLM (Chowdhery et al. 2022): 6 per weight,
        without learned positions and an untied embedding, which are only looked up, and 12 L d T for attention over a
        full context. If only a fraction of the vocabulary competes in the loss, the head has that fraction of weights.
        """
        p = self.params
        looked_up = {"position_emb.weight"} | (set() if p.ties_embeddings else {"token_emb.weight"})
        weights = sum(weight.numel() for name, weight in self.named_parameters() if name not in looked_up)
        left_out = (1 - vocabulary) * self.lm_head.weight.numel()
        return 6.0 * (weights - left_out) + 12.0 * p.n_layers * p.n_heads * p.dim_per_head * p.context_length
