"""The optimizer of a run: AdamW (Loshchilov & Hutter 2019) for all parameters, or Muon for the blocks' matrices and
AdamW for the rest. Weight decay applies to matrices only, not to norms, biases and scales.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from tiny_lm.model.transformer import Transformer
from tiny_lm.training.muon import Muon, MuonAdamW
from tiny_lm.training.params import TrainParams


def build_optimizer(model: Transformer, params: TrainParams, weight_decay: float) -> Optimizer:
    """One optimizer with one list of groups: a group's `initial_lr` is its learning rate at the peak of the schedule.

    Learning rates are 0 until the schedule sets those of a step.
    """
    muon = params.optimizer == "muon"
    hidden = model.hidden_matrices() if muon else {}
    ids = {id(matrix) for some in hidden.values() for matrix in some}
    matrices = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in ids]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    fused = params.precision != "16-mixed"  # the fused kernel would unscale gradients after they are clipped
    adamw = AdamW(
        [
            _group(matrices, params.embedding_learning_rate if muon else params.learning_rate, weight_decay),
            _group(vectors, params.learning_rate, 0.0),
        ],
        lr=0.0, betas=(params.beta1, params.beta2), eps=params.eps, fused=fused,
    )  # fmt: skip
    if not muon:
        return adamw
    groups = [_group(some, params.matrix_learning_rate, weight_decay) | {"maps": maps} for maps, some in hidden.items()]
    return MuonAdamW(Muon(groups, momentum=params.momentum), adamw)


def _group(parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "initial_lr": learning_rate, "weight_decay": weight_decay}
