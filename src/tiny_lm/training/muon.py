"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose update is orthogonalized.

The update of a weight matrix is the nearest matrix with orthonormal rows or columns, so that a step changes what a
layer does to every direction of its input by the same amount. `torch.optim.Muon` does the same matrix by matrix and
always in bfloat16, which a CPU without bf16 instructions emulates: 20 times slower there (docs/lab/log.md). This one
computes in float32 on a CPU, and takes matrices of one shape together.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

# Odd polynomials a x + b x³ + c x⁵, one for each Newton-Schulz step. They bring singular values from 0.001 to 1 to
# within 0.55 of 1, the least that four steps can: minimax polynomials, as in Polar Express (Amsel et al. 2025,
# arXiv 2505.16932). As good as five steps of Jordan's polynomial, at four fifths of the cost; three steps, exact from
# 0.01 on, lose 1 % (docs/lab/log.md).
STEPS = (
    (8.4704, -25.1083, 18.6295),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: (N, m, n) → (N, m, n)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # (N, m, n), m ≤ n
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).to(torch.bfloat16 if x.is_cuda else x.dtype)
    x = _orthogonalize_wide(x) if x.shape[-1] > 1.5 * x.shape[-2] and not x.is_cuda else _orthogonalize_square(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _orthogonalize_square(x: Tensor) -> Tensor:
    for a, b, c in STEPS:
        gram = x @ x.mT  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _orthogonalize_wide(x: Tensor) -> Tensor:
    """The same with matmuls of (m, m) instead of (m, n): each step multiplies x from the left by a polynomial of x xᵀ,
    and these all commute, so x itself is needed only at the beginning and the end. Not for bfloat16, which is too
    coarse for squares of small singular values.
    """
    first = x @ x.mT  # (N, m, m)
    product: Tensor | None = None  # of the polynomials so far: x is now product @ x
    for a, b, c in STEPS:
        gram = first if product is None else product @ first @ product
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
    assert product is not None
    return product @ x


class Muon(Optimizer):
    """Steps each matrix by `lr` · √max(1, m / n) · orthogonalize(Nesterov momentum), with decoupled weight decay.

    A group's matrices may consist of several `maps`, one below the other, each of which is orthogonalized.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "maps": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrices, gradients in _by_shape(group["params"]):
                for p in matrices:
                    if p not in self.state:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                averages = [self.state[p]["momentum"] for p in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                directions = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"]))
                maps = directions.view(len(matrices) * group["maps"], -1, directions.shape[-1])  # (N, m, n)
                updates = orthogonalize(maps).reshape(directions.shape)
                learning_rate = group["lr"] * max(1, maps.shape[-2] / maps.shape[-1]) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, updates.unbind(), alpha=-learning_rate)


def _by_shape(parameters: list[Tensor]) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
    """The parameters that have a gradient, and their gradients, those of one shape together."""
    shapes: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
    for p in parameters:
        if p.grad is not None:
            matrices, gradients = shapes.setdefault(p.shape, ([], []))
            matrices.append(p)
            gradients.append(p.grad)
    return shapes.values()


class MuonAdamW(Optimizer):
    """Muon for some groups and AdamW for the rest, with one list of groups and one state, so that schedules,
    checkpoints and Lightning see a single optimizer.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        first = len(self.parts[0].param_groups)
        for part, groups in zip(self.parts, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            part.param_groups, part.state = groups, self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()
