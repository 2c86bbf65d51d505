"""Parameters of a model by part, and the memory of a training step, without allocating either.

The model is built on torch's meta device or with fake tensors, which have shapes, types and storages but no content.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tiny_lm.model.registry import meta_model
from tiny_lm.model.transformer import Transformer, TransformerParams

PARTS = ("embedding", "positions", "attention", "feed-forward", "norms", "head")
FLOAT = 4  # bytes; weights, gradients and the optimizer's two averages are float32 in every precision


def parameters_by_part(model: Transformer) -> dict[str, int]:
    """Parameters of each part. A tied head counts as 0, because its weight is the embedding's."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[_part(name)] += parameter.numel()
    return counts


def _part(name: str) -> str:
    words = name.split(".")
    owner = words[2] if words[0] == "blocks" else words[0]  # blocks.0.attention.W_q.weight
    return {
        "token_emb": "embedding",
        "position_emb": "positions",
        "attention": "attention",
        "feedforward": "feed-forward",
        "attention_norm": "norms",
        "feedforward_norm": "norms",
        "norm": "norms",
        "lm_head": "head",
    }[owner]


def step_memory(
    params: TransformerParams,
    vocab_size: int,
    batch: int,
    dtype: torch.dtype,
    optimizer: str,
    device: str = "cpu",
    micro_batches: int = 1,
) -> dict[str, int]:
    """Bytes at the end of a forward pass over `batch` full contexts under autocast to `dtype`: weights, gradients, the
    averages of `optimizer` (muon or adamw), and `activations`, all that autograd keeps for the backward pass. Kernels'
    workspace, the logits that the loss holds at a time, and torch itself come on top.

    Of a step with several micro-batches, gradients are also sums over earlier ones, of each power of two (tree.py).
    """
    model = meta_model(params, vocab_size)
    weights = FLOAT * sum(parameters_by_part(model).values())
    hidden = [matrix for some in model.hidden_matrices().values() for matrix in some]
    momentum_only = FLOAT * sum(matrix.numel() for matrix in hidden) if optimizer == "muon" else 0
    # All layers are alike, so the difference between one and two is what each layer adds.
    one, two = (_kept(replace(params, n_layers=n), vocab_size, batch, dtype, device) for n in (1, 2))
    tokens = batch * params.context_length
    # both gradients that the loss computes in the forward pass
    loss = (tokens * dtype.itemsize + vocab_size * FLOAT) * params.d_model
    kept = one + (params.n_layers - 1) * (two - one) + loss
    return {
        "weights": weights,
        "gradients": weights * micro_batches.bit_length(),
        "optimizer": 2 * weights - momentum_only,
        "activations": kept,
    }


def _kept(params: TransformerParams, vocab_size: int, batch: int, dtype: torch.dtype, device: str) -> int:
    """Bytes that autograd keeps for the backward pass of `features`, without weights and tables, each storage once."""
    storages: dict[int, int] = {}
    alive = []  # so that no storage reuses the address of one that was freed

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode(), torch.device(device):
        model = params.build(vocab_size)
        tokens = torch.zeros(batch, params.context_length, dtype=torch.long)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device, dtype, enabled=dtype != torch.float32),
        ):
            model.features(tokens)
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for storage, size in storages.items() if storage not in own)
