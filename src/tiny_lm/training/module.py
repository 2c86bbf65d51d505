"""The training step of a causal language model, as a LightningModule.

A step depends on (seed, step, micro-batch) and the weights alone, so a resumed run has nothing to replay.
"""

import functools
import hashlib
import math
import operator
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from tiny_lm.model.kernels import IGNORED
from tiny_lm.model.transformer import Transformer
from tiny_lm.training.datamodule import BinTokenDataModule
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import TrainParams
from tiny_lm.training.schedule import multiplier
from tiny_lm.training.tree import GradientTree


class CausalLMModule(pl.LightningModule):
    """The loss of an optimizer step is the sum over its targets divided by their number, over all micro-batches and
    devices. A micro-batch divides its sum by its number of tokens, since it does not know how many targets the others
    ignore; gradients are corrected once per step, when they are clipped. (`BinTokenDataset` ignores none; other
    data may.) The number of devices changes no bit.

    After each optimizer step `gradient_norm` (before clipping) and `learning_rate` are those of that step; after a
    validation `val_loss` is in nats per target.
    """

    def __init__(self, model: Transformer, params: TrainParams, weight_decay: float) -> None:
        super().__init__()
        self.model = model
        self.params = params
        self.weight_decay = weight_decay
        self.learning_rate = 0.0
        self.val_loss = float("nan")
        self.gradient_tree = GradientTree()

    def configure_optimizers(self) -> Optimizer:
        return build_optimizer(self.model, self.params, self.weight_decay)

    def on_fit_start(self) -> None:  # also called if no step is left to train
        # Metrics of a step stay on the device until they are logged, so that the GPU never waits for the host.
        # One place for each micro-batch of the step; those of other devices stay 0.
        self._losses = torch.zeros(self.params.micro_batches, device=self.device)
        self._scale = torch.ones((), device=self.device)
        self.gradient_norm = torch.zeros((), device=self.device)
        self._targets = torch.zeros((), dtype=torch.int64, device=self.device)
        # The first step whose loss was not finite, else steps + 1.
        self.bad_step = torch.full((), self.params.steps + 1, device=self.device)
        self._bad_step_on_host = torch.full((), self.params.steps + 1, pin_memory=self.device.type == "cuda")

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        each = self.trainer.accumulate_grad_batches
        if batch_idx % each == 0:
            self._targets.zero_()
            self.gradient_tree.clear()
        self._micro_batch = self.global_rank * each + batch_idx % each  # in the step, over all devices
        seed_micro_batch(self.params.seed, self.global_step, self._micro_batch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, T), (B, T)
        loss = self.model.summed_loss(x, y, self.params.vocabulary_at(self.global_step)) / y.numel()
        self._losses[self._micro_batch] = loss.detach()
        self._targets += (y != IGNORED).sum()
        self._max_targets = y.shape[1] * self.params.batch_size  # of the step, if none is ignored
        self.bad_step = torch.where(loss.isfinite(), self.bad_step, self.bad_step.clamp(max=self.global_step + 1))
        # Lightning divides by the micro-batches of this device. Together that is their number in the step.
        return loss if self.trainer.world_size == 1 else loss / self.trainer.world_size

    def on_after_backward(self) -> None:
        each = self.trainer.accumulate_grad_batches
        if (self._micro_batch + 1) % each:
            self.gradient_tree.take(self.model)
        elif self.trainer.world_size == 1 and each > 1:  # several devices add in DDP's hook
            self.gradient_tree.add_to({p: p.grad for p in self.model.parameters() if p.grad is not None})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._bad_step_on_host.copy_(self.bad_step, non_blocking=True)  # a GPU may write it some steps later
        if self.trainer.world_size == 1 and self._bad_step_on_host <= self.params.steps:  # several stop at a log
            self.stop_if_not_finite()
        now = multiplier(self.global_step, self.params)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * now
        self.learning_rate = self.params.learning_rate * now

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: object, **__: object) -> None:
        targets = self.trainer.strategy.reduce(self._targets, reduce_op="sum")
        self._scale = scale = self._max_targets / targets.clamp(min=1)  # 1 unless targets are ignored
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # In DDP's buckets a gradient may start anywhere, and a GPU adds one that is not aligned in another order.
        aligned = [gradient if gradient.data_ptr() % 16 == 0 else gradient.clone() for gradient in gradients]
        self.gradient_norm = torch.nn.utils.get_total_norm(aligned) * scale
        clip = (self.params.gradient_clip / (self.gradient_norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, clip * scale)  # as clip_grad_norm_ does; scaling costs no second pass

    def on_validation_epoch_start(self) -> None:
        batches = len(cast(BinTokenDataModule, self.trainer.datamodule).val_windows)  # type: ignore[attr-defined]
        # Nats and targets of each batch; those of other devices stay 0.
        self._val_sums = torch.zeros(2, batches, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, _ = batch
        number = batch_idx * self.trainer.world_size + self.global_rank
        if number < self._val_sums.shape[1]:  # else it is the last batch once more
            self._val_sums[0, number] = self.model.token_losses(x, y).sum(dtype=torch.float64)
            self._val_sums[1, number] = (y != IGNORED).sum()

    def on_validation_epoch_end(self) -> None:
        # Adding zeros is exact in any order; what is not is added one by one.
        nats, targets = self.trainer.strategy.reduce(self._val_sums, reduce_op="sum").tolist()
        self.val_loss = functools.reduce(operator.add, nats) / sum(targets)
        if not math.isfinite(self.val_loss):  # the last update itself may have broken the weights
            self.bad_step.clamp_(max=self.global_step)

    def compute_train_loss(self) -> float:
        """Nats per target of the last step. All devices have to call this."""
        losses = self.trainer.strategy.reduce(self._losses.clone(), reduce_op="sum")  # adds zeros, so it is exact
        return float(losses.sum() * self._scale / len(losses))

    @property
    def log_is_due(self) -> bool:
        return self.global_step % self.params.log_every == 0 or self.global_step == self.params.steps

    def stop_if_not_finite(self) -> None:
        """Raises ValueError, on all devices at once, if the loss of a step was NaN or infinite."""
        step = int(self.trainer.strategy.reduce(self.bad_step, reduce_op="min"))
        if step <= self.params.steps:
            muon = self.params.optimizer == "muon"
            keys = ("matrix_learning_rate", "embedding_learning_rate") if muon else ("learning_rate",)
            rates = ", ".join(f"train.{key} (now {getattr(self.params, key):g})" for key in keys)
            raise ValueError(
                f"the loss of step {step} is not finite. The resume checkpoint before it is kept. Lower {rates} or "
                "train.gradient_clip, raise train.warmup, or set train.precision to 32"
            )


def seed_micro_batch(seed: int, step: int, micro_batch: int) -> None:
    """Seeds what a micro-batch draws: dropout, and the sample of the vocabulary."""
    position = (seed, step, micro_batch)
    torch.manual_seed(int.from_bytes(hashlib.sha256(repr(position).encode()).digest()[:7], "little"))
