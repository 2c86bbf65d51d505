"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only, not on norms, biases and scales."""

from torch import nn
from torch.optim import AdamW

from tiny_lm.training.params import TrainParams


def build_optimizer(model: nn.Module, params: TrainParams) -> AdamW:
    """Two groups, with and without weight decay; the schedule sets the learning rate of every step."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": params.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = params.precision != "16-mixed"  # the fused kernel would unscale gradients after they are clipped
    return AdamW(groups, lr=0.0, betas=(params.beta1, params.beta2), eps=params.eps, fused=fused)
