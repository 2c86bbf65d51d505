"""The generate loop: from the ids of a prompt, one new id after another.

A full context: where the next position would be beyond `context_length`, the last half of the context stays, the rest
is forgotten, and the half is read again. A prompt longer than the context is cut in the same way. So a step sees
between half a context and a whole one, and a cache of keys and values serves until the next cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_lm.generation.cache import KVCache
from tiny_lm.generation.sampling import check_sampling, probabilities, sample
from tiny_lm.params import check


def generate(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    eos_id: int | None,
    cache: bool = True,
) -> Iterator[int]:
    """Yields each new id as soon as it is drawn; stops after `max_new_tokens`, or at `eos_id`, which it does not yield.

    `model` is one of ours in eval mode; `prompt` begins with `<bos>` if that is wanted, and has at least one id. The
    ids are a function of the arguments alone, on one kind of machine; without `cache` they are the same, more slowly.
    """
    assert not model.training
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    check(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    check(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    if not prompt:
        raise ValueError("the prompt is empty: it needs at least one token, such as <bos>")
    vocab_size: Any = model.vocab_size
    for token in prompt:
        check(0 <= token < vocab_size, "prompt", token, f"token ids between 0 and {vocab_size - 1}")

    def steps() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        window = _Window(model, prompt, cache)
        for _ in range(max_new_tokens):
            shares = probabilities(window.logits().cpu(), temperature=temperature, top_k=top_k, top_p=top_p)
            token = int(sample(shares, generator))
            if token == eos_id:
                return
            yield token
            window.tokens.append(token)

    return steps()


class _Window:
    """The tokens that the model sees, and its cache of those that it has read."""

    def __init__(self, model: nn.Module, tokens: Sequence[int], cache: bool) -> None:
        self.model: Any = model
        self.params: Any = model.params
        self.device = next(model.parameters()).device
        self.tokens = list(tokens)
        self.cached = cache
        self.cache = self._empty()

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Of the token after the window, (1, vocab_size)."""
        context_length = self.params.context_length
        if len(self.tokens) > context_length:
            del self.tokens[: -max(1, context_length // 2)]
            self.cache = self._empty()
        read = 0 if self.cache is None else self.cache.length
        tokens = torch.tensor([self.tokens[read:]], device=self.device)  # (1, T)
        features = self.model.features(tokens, self.cache)
        return self.model.lm_head(features[:, -1])

    def _empty(self) -> KVCache | None:
        if not self.cached:
            return None
        return KVCache(self.params.n_layers, self.params.context_length)
