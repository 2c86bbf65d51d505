"""The forward pass of generation: texts are read, and then go on together, a token each at a time.

Reading is the model's own forward pass, into rows of the cache. The step after it is the same arithmetic for one
new token per row, each at its own position: queries, keys and values in one product, positions looked up once for all
layers, and the heads that share keys as the rows of one attention. Texts of different lengths need no padding: a row
looks at its own positions and no others. Logits equal those of the model to rounding.

Shapes: B rows, H heads, K key/value heads, D head_dim, S positions that are looked at, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_lm.generation.cache import KVCache

ONE_THREAD = 2**25  # multiplications of a step below which waiting for a second thread costs more than it saves


class Decoder:
    """`model` is GPT2 or Llama3 in eval mode. `rows` texts at once, of up to `room` positions each.

    With `compiled`, the step is compiled for one shape: all rows and all the room, at every step.
    """

    def __init__(self, model: Any, rows: int, room: int, compiled: bool = False) -> None:
        self.model = model
        params = model.params
        self.n_heads, self.n_kv_heads = params.n_heads, params.n_kv_heads
        self.head_dim = params.d_model // params.n_heads
        self.rows, self.room, self.device = rows, room, model.token_emb.weight.device
        self.cache = KVCache(params, rows, room, model.token_emb.weight)
        self.positions = torch.arange(room, device=self.device)
        heads = torch.arange(rows * 2 * self.n_kv_heads, device=self.device)
        self.starts = (heads * room).view(rows, -1)  # of the lines of a row's heads in the cache, (B, 2K)
        self.views = self.cache.layers(rows)
        self.blocks = [
            (
                _norm(block.attention_norm),
                *_joined(block.attention.W_q, block.attention.W_k, block.attention.W_v),
                block.attention.out_proj,
                _norm(block.feedforward_norm),
                _feedforward(block.feedforward),
            )
            for block in model.blocks
        ]
        self.norm = _norm(model.norm)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.rope = model.blocks[0].attention.rope
        if self.rope is not None:  # x * cos + (x with its halves swapped) * sin
            cos, sin = self.rope.cos, self.rope.sin  # (T, D/2) each
            self.cos, self.sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)  # (T, D) each
        self.compiled = compiled
        self.forward = self._forward
        if compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else None
            self.forward = torch.compile(self._forward, fullgraph=True, dynamic=False, mode=mode)

    @torch.inference_mode()
    def read(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Reads a text into each of the rows; logits of the tokens after them, (B, V).

        Shorter ones are filled up on the right, where no position of the text looks: attention is causal, and in the
        cache what stands there is masked until the text itself gets that far.
        """
        longest = max(map(len, texts))
        tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=self.device)  # (B, T)
        x = self.model.features(tokens, self.cache.read_into(rows))  # (B, T, d_model)
        return self.model.lm_head(x[range(len(texts)), [len(text) - 1 for text in texts]])

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """One thread for what is done between two tokens of `count` rows, where that is little."""
        before = torch.get_num_threads()
        if count * self.weights < ONE_THREAD:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One more token at its position for each of the first rows; logits of the tokens after them, (B, V)."""
        count = len(tokens)
        if self.compiled:
            idle = [0] * (self.rows - count)
            new = torch.tensor([[*tokens, *idle], [*positions, *idle]], device=self.device)  # (2, rows)
            return self.forward(new, self.room, True)[:count]
        if count != len(self.views[0][1]):
            self.views = self.cache.layers(count)
        new = torch.tensor([tokens, positions], device=self.device)  # (2, B)
        span = max(positions) + 1
        with self.threads(count):
            return self.forward(new, span, min(positions) + 1 < span)

    def _forward(self, new: Tensor, span: int, masked: bool) -> Tensor:
        """new (2, B): tokens and positions. The S = `span` first positions are looked at, and if `masked` no further
        in any row than it has got.
        """
        tokens, positions = new
        batch, half = len(tokens), self.head_dim // 2
        parts = (self.n_heads, 2 * self.n_kv_heads)
        places = (self.starts[:batch] + positions[:, None]).view(-1)  # the new lines in the cache, (B 2K)
        mask = None
        if masked:
            beyond = self.positions[:span] > positions[:, None]  # (B, S)
            mask = torch.zeros(beyond.shape, device=self.device).masked_fill_(beyond, -torch.inf)[:, None, None]
        x = self.model.token_emb(tokens)  # (B, d_model)
        if self.rope is None:
            x = x + self.model.position_emb.weight[positions]
        else:
            cos, sin = self.cos[positions, None], self.sin[positions, None]  # (B, 1, D) each
        for (norm, weight, bias, out_proj, feedforward_norm, feedforward), (lines, keys, values) in zip(
            self.blocks, self.views, strict=True
        ):
            qkv = F.linear(norm(x), weight, bias).view(batch, -1, self.head_dim)  # (B, H + 2K, D)
            if self.rope is not None:
                qk = qkv[:, : -self.n_kv_heads]  # (B, H + K, D)
                qk.copy_(torch.addcmul(qk * cos, qk.roll(half, -1), sin))
            q, kv = qkv.split(parts, dim=1)  # (B, H, D), (B, 2K, D)
            lines.index_copy_(0, places, kv.reshape(-1, self.head_dim))
            q = q.view(batch, self.n_kv_heads, -1, self.head_dim)  # (B, K, H/K, D)
            k, v = keys.narrow(2, 0, span), values.narrow(2, 0, span)  # (B, K, S, D) each
            x = x + out_proj(F.scaled_dot_product_attention(q, k, v, mask).view(batch, -1))
            x = x + feedforward(feedforward_norm(x))
        return self.model.lm_head(self.norm(x))


def _joined(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """The linear layers as one: its weight, and its bias if they have any."""
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat([layer.weight for layer in layers]).detach(), torch.cat(biases).detach() if biases else None


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """RMSNorm in four operations where torch takes nine on a CPU; any other as it is."""
    if not isinstance(norm, nn.RMSNorm):
        return norm
    size = norm.normalized_shape[0]
    scale, least = norm.weight.detach() * size**0.5, norm.weight.new_tensor(size * norm.eps).sqrt()  # type: ignore[operator]
    # x / sqrt(|x|^2 / size + eps) = x sqrt(size) / sqrt(|x|^2 + size eps)
    return lambda x: x * scale / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), least)


def _feedforward(layer: Any) -> Callable[[Tensor], Tensor]:
    """SwiGLU with its gate and its way up in one product; any other as it is."""
    if not hasattr(layer, "w3"):
        return layer
    weight, down = _joined(layer.w1, layer.w3)[0], layer.w2.weight

    def swiglu(x: Tensor) -> Tensor:
        gate, up = F.linear(x, weight).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down)

    return swiglu
