"""Initial weights.

`gpt2`: normal with standard deviation 0.02, and 0.02 / sqrt(2 n_layers) for the projections that add to the residual
stream, so that its variance does not grow with depth (Radford et al. 2019).

`zero`: as `gpt2`, but those projections start at zero, so that every block starts as the identity.

`copying`: normal with standard deviation 1 / sqrt(inputs), and each head's output projection is the transpose of its
value projection: a head then starts by writing what it reads, and only has to learn where to look. With it, short runs
learn to repeat names that they otherwise would not (docs/lab/log.md). After mimetic initialization (Trockman & Kolter
2023, arXiv 2305.09828), which also ties the two, with a minus sign and for images.
"""

import math

from torch import nn

from tiny_lm.model.transformer import MultiHeadAttention, Transformer

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
    for attention in [part for part in model.modules() if isinstance(part, MultiHeadAttention)] if copying else []:
        values = attention.W_v.weight.detach().view(attention.n_kv_heads, attention.head_dim, -1)  # (K, D, d_model)
        heads = values.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=0)  # (H, D, d_model)
        attention.out_proj.weight.data = heads.flatten(0, 1).T.contiguous()
