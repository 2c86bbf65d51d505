"""A model of shapes alone, to count and to compare before one exists."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tiny_lm.model.build import construct_model
from tiny_lm.model.transformer import Transformer, TransformerParams


def outline(params: TransformerParams, vocab_size: int) -> Transformer:
    """The model on the meta device: it takes no memory."""
    with torch.device("meta"), _Unfilled():
        return construct_model(params, vocab_size)


class _Unfilled(TorchFunctionMode):
    """Leaves embeddings as they are: to draw numbers on the meta device torch imports its compiler, for a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **(kwargs or {}))
