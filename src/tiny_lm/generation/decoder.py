"""The forward pass of generation: texts are read, and then go on together, a token each at a time.

Both are the model's arithmetic in half its operations, since at this size each costs more than what it computes:
queries, keys and values in one product, into whose weights go those of RMSNorm and the scale of attention; positions
looked up once for all layers. Reading stops at the keys and values of the last layer: nothing else of a token is looked
at later. A step takes one new token per row, each at its own position, and the heads that share keys are the rows of
one product. Texts of different lengths need no padding: a row looks at its own positions and no others. Logits equal
those of the model to rounding.

Shapes: B rows, T tokens, H heads, K key/value heads, D head_dim, S positions that are looked at, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_lm.generation.cache import KVCache

Layer = Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]  # of a weight and a bias

ONE_THREAD = 2**24  # multiplications of a step below which waiting for a second thread costs more than it saves


class Decoder:
    """`model` is GPT2 or Llama3 in eval mode. `rows` texts at once, of up to `room` positions each.

    With `compiled`, the step is made for one shape, all rows and all the room: compiled, or on CUDA a recorded graph.
    """

    def __init__(self, model: Any, rows: int, room: int, compiled: bool = False) -> None:
        self.model = model
        params = model.params
        self.n_heads, self.n_kv_heads = params.n_heads, params.n_kv_heads
        self.head_dim = params.d_model // params.n_heads
        self.rows, self.room, self.device = rows, room, model.token_emb.weight.device
        order = torch.arange(self.head_dim, device=self.device)
        self.rope = model.blocks[0].attention.rope
        if self.rope is not None:  # the two dimensions that turn together become one complex number
            order = order.view(2, -1).t().flatten()
            self.turns = torch.complex(self.rope.cos, self.rope.sin)  # (T, D/2)
        self.cache = KVCache(params, rows, room, model.token_emb.weight)
        self.positions = torch.arange(room, device=self.device)
        heads = torch.arange(2 * rows * self.n_kv_heads, device=self.device)
        self.starts = (heads * room).view(2, rows, -1).transpose(0, 1)  # of heads in the lines of the cache, (B, 2, K)
        self.views = self.cache.layers(rows)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        shared = self.device.type == "cpu" and rows > 1 and rows * self.weights >= ONE_THREAD
        wide = _linear_of_many if shared else _linear
        self.blocks = [
            (
                _product(block.attention_norm, *_joined_attention(block.attention, order), _linear),
                _added(block.attention.out_proj),
                _feedforward(block.feedforward_norm, block.feedforward, wide),
            )
            for block in model.blocks
        ]
        self.head = _product(model.norm, model.lm_head.weight.detach(), None, wide)
        self.compiled = compiled
        self.forward: Callable[[Tensor, int, bool], Tensor] = self._forward
        if compiled and self.device.type == "cuda":
            self.forward = self._recorded()
        elif compiled:
            self.forward = torch.compile(self._forward, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def read(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
        """Reads a text into each of the rows, over what was there; a step can follow.

        Shorter ones are filled up on the right, where no position of the text looks: attention is causal, and in the
        cache what stands there is masked until the text itself gets that far.
        """
        longest = max(map(len, texts))
        tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=self.device)  # (B, T)
        index = torch.tensor(rows, device=self.device)
        x, turns = self._embed(tokens, self.positions[:longest])  # (B, T, d_model), (T, 1, D/2)
        x = x.flatten(0, 1)  # (BT, d_model)
        for layer, (project, add_attention, add_feedforward) in enumerate(self.blocks):
            heads = project(x).view(*tokens.shape, -1, self.head_dim)  # (B, T, H + 2K, D)
            self._turn(heads, turns)
            sizes = [self.n_heads, self.n_kv_heads, self.n_kv_heads]
            q, k, v = (part.transpose(1, 2) for part in heads.split(sizes, dim=2))  # (B, H, T, D), (B, K, T, D)
            self.cache.write(layer, index, k, v)
            if layer + 1 < len(self.blocks):
                grouped = self.n_heads != self.n_kv_heads
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=grouped)
                x = add_attention(x, out.transpose(1, 2).reshape(len(x), -1))
                x = add_feedforward(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors of the tokens, and with RoPE what turns queries and keys at their positions."""
        x = self.model.token_emb(tokens)
        if self.rope is None:
            return x + self.model.position_emb.weight[positions], None
        return x, self.turns[positions, None]

    def _turn(self, heads: Tensor, turns: Tensor | None) -> None:
        """RoPE, in place, of queries and keys in heads (…, H + 2K, D)."""
        if turns is not None:
            torch.view_as_complex(heads[..., : -self.n_kv_heads, :].unflatten(-1, (-1, 2))).mul_(turns)

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
        if count * self.n_kv_heads != len(self.views[0][1]):
            self.views = self.cache.layers(count)
        new = torch.tensor([tokens, positions], device=self.device)  # (2, B)
        span = max(positions) + 1
        with self.threads(count):
            return self.forward(new, span, min(positions) + 1 < span)

    @torch.inference_mode()
    def _recorded(self) -> Callable[[Tensor, int, bool], Tensor]:
        """`_forward` as a CUDA graph: one launch, where each of its kernels takes longer to launch than to run. What it
        returns lies where the next call writes.
        """
        new = torch.zeros(2, self.rows, dtype=torch.int64, device=self.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # a first time, in which libraries prepare themselves
            self._forward(new, self.room, True)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._forward(new, self.room, True)

        def replay(tokens_and_positions: Tensor, span: int, masked: bool) -> Tensor:
            new.copy_(tokens_and_positions)
            graph.replay()
            return logits

        return replay

    def _forward(self, new: Tensor, span: int, masked: bool) -> Tensor:
        """new (2, B): tokens and positions. The S = `span` first positions are looked at, and if `masked` no further
        in any row than it has got.
        """
        tokens, positions = new
        batch, n_heads, n_kv_heads = len(tokens), self.n_heads, self.n_kv_heads
        places = (self.starts[:batch] + positions[:, None, None]).flatten()  # the new lines in the cache, (B2K)
        mask = torch.zeros(1, device=self.device)
        if masked:
            beyond = self.positions[:span] > positions[:, None]  # (B, S)
            mask = torch.zeros(beyond.shape, device=self.device).masked_fill_(beyond, -torch.inf)
            mask = mask.repeat_interleave(n_kv_heads, 0)[:, None]  # (BK, 1, S)
        x, turns = self._embed(tokens, positions)  # (B, d_model), (B, 1, D/2)
        for (project, add_attention, add_feedforward), (lines, keys, values) in zip(
            self.blocks, self.views, strict=True
        ):
            heads = project(x).view(batch, -1, self.head_dim)  # (B, H + 2K, D)
            self._turn(heads, turns)
            lines.index_copy_(0, places, heads[:, n_heads:].reshape(-1, self.head_dim))
            q = heads[:, :n_heads].reshape(batch * n_kv_heads, -1, self.head_dim)  # (BK, H/K, D)
            k, v = keys.narrow(1, 0, span), values.narrow(1, 0, span)  # (BK, S, D) each
            shares = torch.baddbmm(mask, q, k.mT).softmax(-1)  # (BK, H/K, S)
            x = add_attention(x, torch.bmm(shares, v).view(batch, -1))
            x = add_feedforward(x)
        return self.head(x).contiguous()


def _joined(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """The linear layers as one: its weight, and its bias if they have any."""
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat([layer.weight for layer in layers]).detach(), torch.cat(biases).detach() if biases else None


def _joined_attention(attention: Any, order: Tensor) -> tuple[Tensor, Tensor | None]:
    """W_q, W_k and W_v as one, the dimensions of queries and keys in that order; queries are divided by sqrt(D)."""
    joined = _joined(attention.W_q, attention.W_k, attention.W_v)
    queries, keys, size = attention.W_q.out_features, attention.W_k.out_features, len(order)
    for part in joined:
        if part is not None:
            heads = part[: queries + keys].unflatten(0, (-1, size))  # (H + K, D, …)
            heads.copy_(heads[:, order])
            part[:queries] *= size**-0.5
    return joined


def _linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The linear layer of rows (N, inputs). Its weight is turned in memory, which takes a product with few rows up to a
    third less time than reading it across.
    """
    turned = weight.t().contiguous()  # (inputs, outputs)
    return lambda x: torch.mm(x, turned) if bias is None else torch.addmm(bias, x, turned)


def _linear_of_many(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The same for some rows on several threads: with the factors the other way round these share the outputs, and take
    down to half of the time for many outputs. The result is a transposed view.
    """
    assert bias is None
    return lambda x: torch.mm(weight, x.t()).t()


def _product(norm: nn.Module, weight: Tensor, bias: Tensor | None, layer: Layer) -> Callable[[Tensor], Tensor]:
    """The linear layer after the norm; RMSNorm, whose weight becomes the layer's, is then three operations, not ten."""
    if not isinstance(norm, nn.RMSNorm):
        linear = layer(weight, bias)
        return lambda x: linear(norm(x))
    assert bias is None
    size = norm.normalized_shape[0]
    scaled = layer(weight * norm.weight.detach() * size**0.5, None)
    least = norm.weight.new_tensor(size * norm.eps).sqrt()  # type: ignore[operator]
    # x / sqrt(|x|^2 / size + eps) = x sqrt(size) / sqrt(|x|^2 + size eps)
    return lambda x: scaled(x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), least))


def _added(layer: nn.Linear) -> Callable[[Tensor, Tensor], Tensor]:
    """x, y -> x + the layer of y."""
    if layer.bias is not None:
        return lambda x, y: x + layer(y)
    turned = layer.weight.detach().t().contiguous()
    return lambda x, y: torch.addmm(x, y, turned)


def _feedforward(norm: nn.Module, layer: Any, wide: Layer) -> Callable[[Tensor], Tensor]:
    """x -> x + the feed-forward layer of the normed x; SwiGLU with its gate and its way up in one product."""
    if not hasattr(layer, "w3"):
        return lambda x: x + layer(norm(x))
    gate_and_up, add = _product(norm, *_joined(layer.w1, layer.w3), wide), _added(layer.w2)

    def swiglu(x: Tensor) -> Tensor:
        gate, up = gate_and_up(x).chunk(2, dim=-1)
        return add(x, F.silu(gate) * up)

    return swiglu
