"""Sums the gradients of a step in a fixed order, so that any number of devices gives the same bits.

Floating-point addition is not associative, so the order is part of the result: the micro-batches of a step are the
leaves of a binary tree, ((0 + 1) + (2 + 3)) + …. Each device adds the subtree of its own micro-batches, and the devices
add these sums as the top of the tree. Communication moves numbers and adds none, so the algorithm that a library
chooses for it cannot matter. It moves as many bytes as a ring all-reduce.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future


class GradientTree:
    """The subtrees of one device's micro-batches, as a binary counter: at most one sum of each power of two.

    Needs memory for log2(micro-batches) sets of gradients.
    """

    def __init__(self) -> None:
        self.subtrees: list[tuple[int, dict[nn.Parameter, Tensor]]] = []  # (micro-batches, sum), the largest first

    def take(self, model: nn.Module) -> None:
        """Takes the gradients of a micro-batch that is not the step's last from the parameters."""
        gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
        for p in gradients:
            p.grad = None
        size = 1
        while self.subtrees and self.subtrees[-1][0] == size:
            _add(gradients, self.subtrees.pop()[1])
            size *= 2
        self.subtrees.append((size, gradients))

    def add_to(self, gradients: dict[nn.Parameter, Tensor]) -> None:
        """Adds everything that was taken to the gradients of the last micro-batch, in place."""
        for _, earlier in reversed(self.subtrees):
            _add(gradients, earlier)

    def clear(self) -> None:
        self.subtrees.clear()


def _add(gradients: dict[nn.Parameter, Tensor], earlier: dict[nn.Parameter, Tensor]) -> None:
    torch._foreach_add_(list(gradients.values()), [earlier[p] for p in gradients])


def add_rows(rows: Tensor) -> Tensor:
    """The sum of the rows as a tree: (n, m) → (m,). Overwrites `rows`."""
    n, distance = len(rows), 1
    while distance < n:
        rows[: n - distance : 2 * distance] += rows[distance :: 2 * distance]
        distance *= 2
    return rows[0]


def sum_over_devices(tree: GradientTree, bucket: dist.GradBucket) -> Future[Tensor]:
    """Communication hook of DDP: the sum, not the mean, of a bucket of gradients over all micro-batches and devices."""
    parameters = cast(list[nn.Parameter], bucket.parameters())
    tree.add_to(dict(zip(parameters, bucket.gradients(), strict=True)))
    buffer, devices = bucket.buffer(), dist.get_world_size()
    length = len(buffer)
    padded = nn.functional.pad(buffer, (0, -length % devices)) if length % devices else buffer
    received = torch.empty_like(padded)
    dist.all_to_all_single(received, padded)  # row r: what device r has of this device's part
    part = add_rows(received.view(devices, -1))
    dist.all_gather_single(padded, part)
    done: Future[Tensor] = Future()
    done.set_result(padded[:length])
    return done
