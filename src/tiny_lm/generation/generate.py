"""The generate loop: continues prompts of token ids, one new id at a time.

When the context is full, its last half is kept and read again, and the rest is dropped; a prompt longer than the
context is cut in the same way. So a long text is always predicted from at least half a context, and the cache of keys
and values stays valid until the next cut.

Continuous batching: `batch_size` prompts are continued at a time, and when one ends, the next takes its row. Each has
its own seed and random generator, so its text does not depend on its neighbors, with one exception: a larger batch adds
in a different order, which changes the last digits of a logit and, rarely, a very close draw.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NotRequired, TypedDict, Unpack

import torch
from torch import Tensor

from tiny_lm.generation.sampling import check_sampling, next_tokens
from tiny_lm.io.params import check
from tiny_lm.model.transformer import KVCache, Transformer

PREFILL_TOKENS = 2**10  # of prompts read at a time; the activations of more do not fit in a CPU's cache
# multiplications of a forward pass; with fewer, waiting for a second thread costs more than it saves
ONE_THREAD = 2**24


class Options(TypedDict):
    """The options of `generate_batch`."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    eos_id: int | None
    compiled: NotRequired[bool]


def generate(model: Transformer, prompt: Sequence[int], *, seed: int, **options: Unpack[Options]) -> Iterator[int]:
    """Yields each new id as soon as it is drawn; stops after `max_new_tokens`, or before `eos_id`.

    The same arguments give the same ids on the same kind of machine.
    """
    new_ids = generate_batch(model, [prompt], seeds=[seed], batch_size=1, **options)
    return (token for _, token in new_ids if token is not None)


def generate_batch(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    batch_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    eos_id: int | None,
    compiled: bool = False,
) -> Iterator[tuple[int, int | None]]:
    """Yields (index of the prompt, new id) as soon as an id is drawn, and (index, None) when a text ends: after
    `max_new_tokens`, or before `eos_id`.

    `model` must be in eval mode. A prompt has at least one id; `<bos>` is not added.
    """
    assert not model.training
    assert len(seeds) == len(prompts)
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    check(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    for seed in seeds:
        check(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    for prompt in prompts:
        if not prompt:
            raise ValueError("the prompt is empty: it needs at least one token, such as <bos>")
        for token in (min(prompt), max(prompt)):
            check(0 <= token < model.vocab_size, "prompt", token, f"token ids between 0 and {model.vocab_size - 1}")

    @torch.inference_mode()
    def draw(decoder: Decoder, texts: Sequence[_Text], unread: Sequence[int]) -> list[int]:
        uniform = torch.tensor([text.random.getrandbits(32) / 2**32 for text in texts], dtype=torch.float64)
        with _threads(decoder, sum(len(text.window) for text in texts) if unread else decoder.rows(len(texts))):
            if unread:
                logits = decoder.prefill(unread, [text.window for text in texts])
            else:
                logits = decoder.step([text.window[-1] for text in texts], [len(text.window) - 1 for text in texts])
            return next_tokens(logits.cpu(), uniform, temperature=temperature, top_k=top_k, top_p=top_p).tolist()

    def steps() -> Iterator[tuple[int, int | None]]:
        context_length = model.params.context_length
        waiting = deque(_Text(i, prompt, seeds[i], context_length) for i, prompt in enumerate(prompts))
        max_len = min(context_length, max(len(text.window) for text in waiting) + max_new_tokens)
        rows: list[_Text] = []  # the texts being continued, by their row in the cache
        decoder = Decoder(model, min(batch_size, len(waiting)), max_len, compiled)
        while waiting or rows:
            while waiting and len(rows) < batch_size:
                rows.append(waiting.popleft())
            unread = _unread(rows)
            active = unread or range(len(rows))
            ended = []
            for row, token in zip(active, draw(decoder, [rows[row] for row in active], unread), strict=True):
                text = rows[row]
                if token != eos_id:
                    yield text.index, token
                    text.append(token)
                if token == eos_id or text.length == max_new_tokens:
                    yield text.index, None
                    ended.append(row)
            for row in reversed(ended):  # the last text moves to the row of the one that has ended
                last = rows.pop()
                if row < len(rows):
                    decoder.cache.move(len(rows), row)
                    rows[row] = last

    return steps() if prompts else iter(())


class _Text:
    """A prompt and its continuation, of which the model sees the last part, the window."""

    def __init__(self, index: int, prompt: Sequence[int], seed: int, context_length: int) -> None:
        self.index = index
        self.random = random.Random(seed)
        self.context_length = context_length
        self.length = 0  # new tokens
        self.window = list(prompt)
        self._cut()
        self.in_cache = False  # whether keys and values of all tokens but the last are cached

    def append(self, token: int) -> None:
        self.length += 1
        self.window.append(token)
        self.in_cache = not self._cut()

    def _cut(self) -> bool:
        """Cuts a window that is longer than the context to half a context; returns whether it did."""
        too_long = len(self.window) > self.context_length
        if too_long:
            del self.window[: -max(1, self.context_length // 2)]
        return too_long


def _unread(rows: Sequence[_Text]) -> list[int]:
    """The rows to prefill next, of similar lengths and PREFILL_TOKENS at most; none if all windows are cached."""
    lengths = {row: len(text.window) for row, text in enumerate(rows) if not text.in_cache}
    if not lengths:
        return []
    # the same for lengths within a factor of two: little padding
    bits = (next(iter(lengths.values())) - 1).bit_length()
    group = [row for row, length in lengths.items() if (length - 1).bit_length() == bits]
    return group[: max(1, PREFILL_TOKENS // max(lengths[row] for row in group))]


@contextmanager
def _threads(decoder: Decoder, tokens: int) -> Iterator[None]:
    """Uses one thread for a forward pass of `tokens` tokens if that is little work."""
    before = torch.get_num_threads()
    if tokens * decoder.weights < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Decoder:
    """The model and a cache for `batch` texts of up to `max_len` positions each.

    With `compiled`, every step has the shape of all rows and positions, and runs as a CUDA graph, or compiled on a CPU.
    """

    def __init__(self, model: Transformer, batch: int, max_len: int, compiled: bool = False) -> None:
        self.model = model
        self.batch, self.max_len, self.device = batch, max_len, model.token_emb.weight.device
        self.cache = KVCache(model.params, batch, max_len, model.token_emb.weight)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.compiled = compiled
        self.logits: Callable[[Tensor, int, bool], Tensor] = self._logits
        if compiled and self.device.type == "cuda":
            self.logits = self._recorded()
        elif compiled:
            self.logits = torch.compile(self._logits, fullgraph=True, dynamic=False)

    def rows(self, texts: int) -> int:
        """The rows of a step for so many texts."""
        return self.batch if self.compiled else texts

    @torch.inference_mode()
    def prefill(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Replaces the text of each row; returns the logits of the next tokens, (B, V).

        Shorter texts are padded on the right: no token of the text attends to the padding, and new tokens overwrite it.
        """
        longest = max(map(len, texts))
        tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=self.device)  # (B, T)
        index, lengths = torch.tensor([rows, [len(text) for text in texts]], device=self.device)  # (B,) each
        return self.model.next_logits(tokens, self.cache.prefill(index, longest, lengths))

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Appends a token at its position in each of the first rows; returns the logits of the next tokens, (B, V)."""
        batch = len(tokens)
        idle = [0] * (self.rows(batch) - batch)
        new = torch.tensor([[*tokens, *idle], [*positions, *idle]], device=self.device)[..., None]  # (2, B, 1)
        span = self.max_len if self.compiled else max(positions) + 1
        logits = self.logits(new, span, self.compiled or min(positions) + 1 < span)
        return logits[:batch] if self.compiled else logits

    def _logits(self, new: Tensor, span: int, masked: bool) -> Tensor:
        """new (2, B, 1), tokens and positions -> (B, V)."""
        return self.model.next_logits(new[0], self.cache.step(new[1, :, 0], span, masked))

    @torch.inference_mode()
    def _recorded(self) -> Callable[[Tensor, int, bool], Tensor]:
        """`_logits` as a CUDA graph: one launch instead of one per kernel, which would take longer than the kernels.

        The next call overwrites the logits that it returns.
        """
        new = torch.zeros(2, self.batch, 1, dtype=torch.int64, device=self.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm-up: libraries initialize in the first call
            self._logits(new, self.max_len, True)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._logits(new, self.max_len, True)

        def replay(tokens_and_positions: Tensor, span: int, masked: bool) -> Tensor:
            new.copy_(tokens_and_positions)
            graph.replay()
            return logits

        return replay
