"""The training step of a causal language model, as a LightningModule.

A step depends on (seed, step, micro-batch) and the weights alone, so a resumed run has nothing to replay.
"""

import hashlib
import math
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import TrainParams
from tiny_lm.training.schedule import multiplier

IGNORED = -100  # targets that are not part of the loss
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of model, x (B, T), y (B, T), in nats


class CausalLMModule(pl.LightningModule):
    """The loss of an optimizer step is the sum over its targets divided by their number, over all micro-batches and
    devices. A micro-batch divides its sum by its number of tokens, since it does not know how many targets the others
    ignore; gradients are corrected once per step, when they are clipped.

    `summed_loss` returns the sum over a batch, `token_losses` the loss of every target (B, T), 0 where y is ignored.
    After each optimizer step `train_loss` (nats per target; with several devices, their mean), `gradient_norm` (before
    clipping) and `learning_rate` are those of that step; after a validation `val_loss` is in nats per target.
    """

    def __init__(self, model: nn.Module, params: TrainParams, summed_loss: Loss, token_losses: Loss) -> None:
        super().__init__()
        self.model = model
        self.params = params
        self.summed_loss = summed_loss
        self.token_losses = token_losses
        self.learning_rate = 0.0
        self.val_loss = float("nan")

    def configure_optimizers(self) -> Optimizer:
        return build_optimizer(self.model, self.params)

    def on_fit_start(self) -> None:  # also called if no step is left to train
        # Metrics of a step stay on the device until they are logged, so that the GPU never waits for the host.
        self.train_loss = torch.zeros((), device=self.device)
        self.gradient_norm = torch.zeros((), device=self.device)
        self._targets = torch.zeros((), dtype=torch.int64, device=self.device)
        # The first step whose loss was not finite, else steps + 1.
        self.bad_step = torch.full((), self.params.steps + 1, device=self.device)
        self._bad_step_on_host = torch.full((), self.params.steps + 1, pin_memory=self.device.type == "cuda")

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        micro = batch_idx % self.params.accumulate
        if micro == 0:
            self.train_loss.zero_()
            self._targets.zero_()
        position = (self.params.seed, self.global_step, self.global_rank * self.params.accumulate + micro)
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(position).encode()).digest()[:7], "little"))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, T), (B, T)
        loss = self.summed_loss(self.model, x, y) / y.numel()
        self.train_loss += loss.detach() / self.params.accumulate
        self._targets += (y != IGNORED).sum()
        self._max_targets = y.shape[1] * self.params.batch_size  # of the step, if none is ignored
        self.bad_step = torch.where(loss.isfinite(), self.bad_step, self.bad_step.clamp(max=self.global_step + 1))
        return loss

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
        scale = self._max_targets / targets.clamp(min=1)  # 1 unless targets are ignored
        self.train_loss *= scale
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients) * scale
        clip = (self.params.gradient_clip / (self.gradient_norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, clip * scale)  # as clip_grad_norm_ does; scaling costs no second pass

    def on_validation_epoch_start(self) -> None:
        self._val_nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self._val_targets = torch.zeros((), dtype=torch.int64, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, _ = batch
        self._val_nats += self.token_losses(self.model, x, y).sum(dtype=torch.float64)
        self._val_targets += (y != IGNORED).sum()

    def on_validation_epoch_end(self) -> None:
        self.val_loss = (self._val_nats / self._val_targets).item()  # the same on every device: each reads all of it
        if not math.isfinite(self.val_loss):  # the last update itself may have broken the weights
            self.bad_step.clamp_(max=self.global_step)

    @property
    def log_is_due(self) -> bool:
        return self.global_step % self.params.log_every == 0 or self.global_step == self.params.steps

    def stop_if_not_finite(self) -> None:
        """Raises ValueError, on all devices at once, if the loss of a step was NaN or infinite."""
        step = int(self.trainer.strategy.reduce(self.bad_step, reduce_op="min"))
        if step <= self.params.steps:
            raise ValueError(
                f"the loss of step {step} is not finite. The resume checkpoint before it is kept. Lower "
                f"train.learning_rate (now {self.params.learning_rate:g}) or train.gradient_clip, raise train.warmup, "
                "or set train.precision to 32"
            )
