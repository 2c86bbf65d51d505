"""A model of shapes alone, to count and to compare before one exists."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tiny_lm.model.build import construct_model
from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params


def outline(params: GPT2Params | Llama3Params, vocab_size: int) -> GPT2 | Llama3:
    """The model on the meta device: it takes no memory."""
    with torch.device("meta"), _Unfilled():
        return construct_model(params, vocab_size)


class _Unfilled(TorchFunctionMode):
    """Leaves embeddings as they are: to draw numbers on the meta device torch imports its compiler, for a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **(kwargs or {}))
