"""The architectures by name, and models built from their params."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.init import initialize
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.transformer import Transformer, TransformerParams

MODELS: dict[str, type[TransformerParams]] = {
    "gpt2": GPT2Params,
    "llama3": Llama3Params,
    "qwen3": Qwen3Params,
}


def build_model(params: TransformerParams, vocab_size: int, initialization: str = "gpt2") -> Transformer:
    """The model with fresh weights, drawn from torch's global generator: seed it first."""
    model = params.build(vocab_size)
    initialize(model, initialization)
    return model


def meta_model(params: TransformerParams, vocab_size: int) -> Transformer:
    """The model on the meta device: names and shapes of its parameters, without memory for them."""
    with torch.device("meta"), _SkipEmbeddingInit():
        return params.build(vocab_size)


class _SkipEmbeddingInit(TorchFunctionMode):
    """Random numbers on the meta device make torch import its compiler, which takes a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **(kwargs or {}))
