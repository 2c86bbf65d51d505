"""From params to a model with fresh weights.

`gpt2`: normal with deviation 0.02, and less for the projections that add to the residual stream, 0.02 / sqrt(2
n_layers), so that the stream's variance does not grow with depth (Radford et al. 2019).

`copying`: normal with deviation 1 / sqrt(inputs), and each head's output projection is the transpose of its value
projection: a head then starts by writing what it reads, and has only to learn where to look. Short runs learn to
repeat names with it that otherwise would not (docs/log.md). After mimetic initialization (Trockman & Kolter 2023,
arXiv 2305.09828), which also ties the two, with a minus sign and for images.
"""

import math

from torch import nn

from tiny_lm.model.attention import MultiHeadAttention
from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params
from tiny_lm.model.transformer import Transformer, TransformerParams

MODELS: dict[str, type[TransformerParams]] = {"gpt2": GPT2Params, "llama3": Llama3Params}
RESIDUAL_PROJECTIONS = ("attention.out_proj.weight", "feedforward.fc2.weight", "feedforward.w2.weight")


def construct_model(params: TransformerParams, vocab_size: int) -> Transformer:
    """The model with arbitrary weights, for those who load their own."""
    if isinstance(params, GPT2Params):
        return GPT2(params, vocab_size)
    assert isinstance(params, Llama3Params)
    return Llama3(params, vocab_size)


def build_model(params: TransformerParams, vocab_size: int, initialization: str = "gpt2") -> Transformer:
    """The model with fresh weights, drawn from torch's global generator: seed it first."""
    model = construct_model(params, vocab_size)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:  # the scales of norms are vectors, and start at 1
            residual = math.sqrt(2 * params.n_layers) if name.endswith(RESIDUAL_PROJECTIONS) else 1
            copying = initialization == "copying"
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 if copying else 0.02 / residual)
    if initialization == "copying":
        for attention in [part for part in model.modules() if isinstance(part, MultiHeadAttention)]:
            values = attention.W_v.weight.detach().view(params.n_kv_heads, -1, params.d_model)  # (K, D, d_model)
            heads = values.repeat_interleave(params.n_heads // params.n_kv_heads, dim=0)  # (H, D, d_model)
            attention.out_proj.weight.data = heads.reshape(params.d_model, params.d_model).T.contiguous()
    return model
