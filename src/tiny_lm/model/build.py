"""From params to a model with fresh weights.

Initialization as in GPT-2 (Radford et al. 2019): normal with deviation 0.02, and less for the projections that add
to the residual stream, 0.02 / sqrt(2 n_layers), so that the stream's variance does not grow with depth.
"""

import math

from torch import nn

from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params

MODELS: dict[str, type[GPT2Params] | type[Llama3Params]] = {"gpt2": GPT2Params, "llama3": Llama3Params}
RESIDUAL_PROJECTIONS = ("attention.out_proj.weight", "feedforward.fc2.weight", "feedforward.w2.weight")


def construct_model(params: GPT2Params | Llama3Params, vocab_size: int) -> GPT2 | Llama3:
    """The model with arbitrary weights, for those who load their own."""
    return GPT2(params, vocab_size) if isinstance(params, GPT2Params) else Llama3(params, vocab_size)


def build_model(params: GPT2Params | Llama3Params, vocab_size: int) -> GPT2 | Llama3:
    """The model with fresh weights, drawn from torch's global generator: seed it first."""
    model = construct_model(params, vocab_size)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:  # the scales of norms are vectors, and start at 1
            residual = name.endswith(RESIDUAL_PROJECTIONS)
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * params.n_layers) if residual else 0.02)
    return model
