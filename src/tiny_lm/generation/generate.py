"""The generate loop: from the ids of prompts, one new id after another.

A full context: where the next position would be beyond `context_length`, the last half of the context stays, the rest
is forgotten, and the half is read again. A prompt longer than the context is cut in the same way. So a step sees
between half a context and a whole one, and a cache of keys and values serves until the next cut.

Many prompts: `batch_size` of them go on together; where one ends, the next takes its place. Each has its own seed and
random numbers, so its text does not depend on its neighbours. One reservation: sums over a larger batch are rounded
in another order, which moves a logit in its last digits; a draw that is as close as that may fall otherwise.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_lm.config import check
from tiny_lm.generation.decoder import Decoder
from tiny_lm.generation.sampling import check_sampling, next_tokens

READ_TOKENS = 2**10  # of prompts at a time: what is computed of more no longer fits into a cache


def generate(model: nn.Module, prompt: Sequence[int], *, seed: int, **options: Any) -> Iterator[int]:
    """Yields each new id as soon as it is drawn; stops after `max_new_tokens`, or at `eos_id`, which it does not yield.

    `options` are those of `generate_batch`. The ids are a function of the arguments alone, on one kind of machine.
    """
    drawn = generate_batch(model, [prompt], seeds=[seed], batch_size=1, **options)
    return (token for _, token in drawn if token is not None)


def generate_batch(
    model: nn.Module,
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
    """Yields (number of the prompt, new id) as soon as an id is drawn, and (number, None) where a text has ended: after
    `max_new_tokens`, or at `eos_id`, which is not yielded.

    `model` is one of ours in eval mode. A prompt begins with `<bos>` if that is wanted, and has at least one id.
    """
    assert not model.training
    assert len(seeds) == len(prompts)
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    check(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    for seed in seeds:
        check(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    vocab_size: Any = model.vocab_size
    for prompt in prompts:
        if not prompt:
            raise ValueError("the prompt is empty: it needs at least one token, such as <bos>")
        for token in prompt:
            check(0 <= token < vocab_size, "prompt", token, f"token ids between 0 and {vocab_size - 1}")

    @torch.inference_mode()
    def draw(decoder: Decoder, rows: Sequence[_Text]) -> list[int]:
        numbers = torch.tensor([text.random.getrandbits(32) / 2**32 for text in rows], dtype=torch.float64)
        logits = _logits(decoder, rows).cpu()
        with decoder.threads(len(rows)):
            return next_tokens(logits, numbers, temperature=temperature, top_k=top_k, top_p=top_p).tolist()

    def steps() -> Iterator[tuple[int, int | None]]:
        context_length: int = model.params.context_length  # type: ignore[assignment, union-attr]
        texts = deque(_Text(i, prompt, seeds[i], context_length) for i, prompt in enumerate(prompts))
        room = min(context_length, max(len(text.window) for text in texts) + max_new_tokens)
        rows: list[_Text] = []  # the texts that are being written, by their rows in the decoder
        decoder = Decoder(model, min(batch_size, len(texts)), room, compiled)
        while texts or rows:
            while texts and len(rows) < batch_size:
                rows.append(texts.popleft())
            drawn = draw(decoder, rows)
            ended = []
            for row, (text, token) in enumerate(zip(rows, drawn, strict=True)):
                if token != eos_id:
                    yield text.number, token
                    text.append(token)
                if token == eos_id or text.length == max_new_tokens:
                    yield text.number, None
                    ended.append(row)
            for row in reversed(ended):  # the last row takes the place of one that has ended
                last = rows.pop()
                if row < len(rows):
                    decoder.cache.move(len(rows), row)
                    rows[row] = last

    return steps() if prompts else iter(())


class _Text:
    """A text that is being written, and the last part of it, which the model sees."""

    def __init__(self, number: int, prompt: Sequence[int], seed: int, context_length: int) -> None:
        self.number = number
        self.random = random.Random(seed)
        self.context_length = context_length
        self.length = 0  # of what was written
        self.window = list(prompt)
        self._cut()
        self.unread = True  # by the decoder, so that the whole window is to be read

    def append(self, token: int) -> None:
        self.length += 1
        self.window.append(token)
        self.unread = self._cut()

    def _cut(self) -> bool:
        """Whether the window was too long and has become half a context."""
        full = len(self.window) > self.context_length
        if full:
            del self.window[: -max(1, self.context_length // 2)]
        return full


def _logits(decoder: Decoder, rows: Sequence[_Text]) -> Tensor:
    """Of the token after each window, (B, V). What is unread of a window is read but for its last token."""
    groups: dict[int, list[int]] = {}  # of lengths that differ by less than a factor of two: little is filled up
    for row, text in enumerate(rows):
        length = len(text.window) - 1
        if text.unread and length:
            groups.setdefault(length.bit_length(), []).append(row)
        text.unread = False
    for group in groups.values():
        size = max(1, READ_TOKENS // max(len(rows[row].window) for row in group))
        for part in (group[first : first + size] for first in range(0, len(group), size)):
            decoder.read(part, [rows[row].window[:-1] for row in part])
    return decoder.step([text.window[-1] for text in rows], [len(text.window) - 1 for text in rows])
