"""Initial weights.

`gpt2`: normal with standard deviation 0.02, and 0.02 / sqrt(2 n_layers) for the projections that add to the residual
stream, so that its variance does not grow with depth (Radford et al. 2019).

`bigrams`: as `gpt2`; then training/bigrams.py sets embedding and head, if it is untied, from the training tokens.

`zero`: as `gpt2`, but those projections start at zero, so that every block starts as the identity.

`copying`: normal with standard deviation 1 / sqrt(inputs), and each head's output projection is the transpose of its
value projection: a head then starts by writing what it reads, and only has to learn where to look. With it, short runs
learn to repeat names that they otherwise would not (docs/lab/log.md). After mimetic initialization (Trockman & Kolter
2023, arXiv 2305.09828), which also ties the two, with a minus sign and for images.

Biases are zero, except that the first heads of the first layer start by attending to the preceding tokens if the model
has RoPE and biases of queries and keys. Every model learns such heads sooner or later, and later layers build on them
(Olsson et al. 2022, arXiv 2209.11895).
"""

import math

import torch
from torch import nn

from tiny_lm.model.transformer import MultiHeadAttention, RoPE, Transformer

PRECEDING = 2  # heads that start by attending to the token before, the one before that, …
CONTRAST = 4.0  # by how much the score of that position exceeds those next to it
RESIDUAL_PROJECTIONS = ("attention.out_proj.weight", "feedforward.fc2.weight", "feedforward.w2.weight")


def initialize(model: Transformer, initialization: str) -> None:
    copying = initialization == "copying"
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:  # the scales of norms are vectors, and start at 1
            residual = name.endswith(RESIDUAL_PROJECTIONS)
            std = 0.02 / math.sqrt(2 * model.params.n_layers) if residual else 0.02
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 if copying else std)
            if residual and initialization == "zero":
                nn.init.zeros_(parameter)
    attentions = [part for part in model.modules() if isinstance(part, MultiHeadAttention)]
    if model.rope is not None and attentions[0].W_q.bias is not None and model.params.context_length > 1:
        _attend_to_preceding(attentions[0], model.rope)
    for attention in attentions if copying else []:
        values = attention.W_v.weight.detach().view(attention.n_kv_heads, attention.head_dim, -1)  # (K, D, d_model)
        heads = values.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=0)  # (H, D, d_model)
        attention.out_proj.weight.data = heads.flatten(0, 1).T.contiguous()


@torch.no_grad()
def _attend_to_preceding(attention: MultiHeadAttention, rope: RoPE) -> None:
    """Sets the biases q and k of a head such that the score of positions i and j is a² Σ cos((i - j - n) ω) / √D, over
    the frequencies ω of RoPE. It is largest at j = i - n: k is q rotated by n positions.
    """
    half = attention.head_dim // 2
    cos, sin = rope.table[:, :half], rope.table[:, -half:]
    amplitude = (CONTRAST * math.sqrt(attention.head_dim) / (1 - cos[1]).sum()).sqrt()
    queries = attention.W_q.bias.view(attention.n_kv_heads, -1, 2, half)  # (K, H/K, 2, D/2)
    keys = attention.W_k.bias.view(attention.n_kv_heads, 2, half)
    for head in range(min(PRECEDING, attention.n_kv_heads, len(cos) - 1)):
        queries[head, 0, 0] = amplitude
        keys[head] = amplitude * torch.stack((cos[head + 1], sin[head + 1]))
