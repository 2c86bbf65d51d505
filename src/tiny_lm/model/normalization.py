"""Normalization of the residual stream, over its last axis."""

from typing import Any

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """To mean 0 and variance 1, then a learned scale and shift (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_read(super().forward(x))


class RMSNorm(nn.RMSNorm):
    """To root mean square 1, then a learned scale: no mean, no shift (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def forward(self, x: Tensor) -> Tensor:
        training_on_cpu = x.device.type == "cpu" and torch.is_grad_enabled()
        return _as_read(_RMSNorm.apply(x, self.weight, self.eps) if training_on_cpu else super().forward(x))


class _RMSNorm(torch.autograd.Function):
    """For training on a CPU, where torch has no kernel but a chain of operations that autograd derives one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (…, 1)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed, gradient = x * scale, gradients[0]
        weight_grad = (gradient * normed).flatten(0, -2).sum(0)
        gradient = gradient * weight
        along = (gradient * normed).sum(-1, keepdim=True).div_(x.shape[-1])  # what would change the norm alone
        return normed.mul_(along).neg_().add_(gradient).mul_(scale), weight_grad, None


def _as_read(x: Tensor) -> Tensor:
    """In autocast's type: one cast for all layers that read it, not one for each (docs/log.md has what that saves)."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x
