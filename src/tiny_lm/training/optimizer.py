"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only: norms, biases and scales are left alone."""

from torch import nn
from torch.optim import AdamW


def build_optimizer(
    model: nn.Module, *, betas: tuple[float, float], eps: float, weight_decay: float, fused: bool
) -> AdamW:
    """Two groups, decayed and not; the learning rate is set at every step by the schedule."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=fused)
