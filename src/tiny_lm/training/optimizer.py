"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only, not on norms, biases and scales."""

from typing import Any

from torch import nn
from torch.optim import AdamW

from tiny_lm.training.params import TrainParams


def parameter_groups(model: nn.Module, params: TrainParams) -> list[dict[str, Any]]:
    """Each parameter in one group; `initial_lr` is a group's learning rate at the peak of the schedule."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "initial_lr": params.learning_rate, "weight_decay": params.weight_decay},
        {"params": vectors, "initial_lr": params.learning_rate, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, params: TrainParams) -> AdamW:
    """One optimizer for all groups. Its learning rates are 0 until the schedule sets those of a step."""
    fused = params.precision != "16-mixed"  # the fused kernel would unscale gradients after they are clipped
    groups, betas = parameter_groups(model, params), (params.beta1, params.beta2)
    return AdamW(groups, lr=0.0, betas=betas, eps=params.eps, fused=fused)
