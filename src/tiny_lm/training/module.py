"""One training step of a causal language model, as a LightningModule.

What a step does depends on (seed, step, micro-batch) and the weights alone, so a resumed run has nothing to replay.
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
from tiny_lm.training.schedule import learning_rate

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of model, x (B, T), y (B, T), in nats


class CausalLMModule(pl.LightningModule):
    """`mean_loss` gives the mean over a batch, `token_losses` the loss of every target (B, T), 0 where y is -100. After
    each optimizer step `train_loss` (nats, mean over its tokens), `gradient_norm` (before clipping) and `learning_rate`
    hold that step's figures, and after a validation `val_loss` holds nats per target.
    """

    def __init__(self, model: nn.Module, params: TrainParams, mean_loss: Loss, token_losses: Loss) -> None:
        super().__init__()
        self.model = model
        self.params = params
        self.mean_loss = mean_loss
        self.token_losses = token_losses
        self.learning_rate = 0.0
        self.val_loss = float("nan")

    def configure_optimizers(self) -> Optimizer:
        return build_optimizer(self.model, self.params)

    def on_fit_start(self) -> None:  # also of a run that has nothing left to train
        # Figures of the step stay on the device until somebody reads them, so that the GPU never waits for the host.
        self.train_loss = torch.zeros((), device=self.device)
        self.gradient_norm = torch.zeros((), device=self.device)
        self.bad_step = torch.full((), self.params.steps + 1, device=self.device)
        self._bad_step_on_host = torch.full((), self.params.steps + 1, pin_memory=self.device.type == "cuda")

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        micro = batch_idx % self.params.accumulate
        if micro == 0:
            self.train_loss.zero_()
        place = (self.params.seed, self.global_step, self.global_rank * self.params.accumulate + micro)
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7], "little"))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, T), (B, T)
        loss = self.mean_loss(self.model, x, y)
        self.train_loss += loss.detach() / self.params.accumulate
        self.bad_step = torch.where(loss.isfinite(), self.bad_step, self.bad_step.clamp(max=self.global_step + 1))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._bad_step_on_host.copy_(self.bad_step, non_blocking=True)  # a GPU writes when it gets there; nobody waits
        if self.trainer.world_size == 1 and self._bad_step_on_host <= self.params.steps:  # several stop at a log
            self.stop_if_not_finite()
        self.learning_rate = learning_rate(self.global_step, self.params)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: object, **__: object) -> None:
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip).detach()

    def on_validation_epoch_start(self) -> None:
        self._val_nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self._val_targets = torch.zeros((), dtype=torch.int64, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self._val_nats += self.token_losses(self.model, batch[0], batch[1]).sum(dtype=torch.float64)
        self._val_targets += (batch[1] != -100).sum()

    def on_validation_epoch_end(self) -> None:
        self.val_loss = (self._val_nats / self._val_targets).item()  # every device reads all of it
        if not math.isfinite(self.val_loss):  # the update itself may have broken the weights
            self.bad_step.clamp_(max=self.global_step)

    @property
    def log_is_due(self) -> bool:
        return self.global_step % self.params.log_every == 0 or self.global_step == self.params.steps

    def stop_if_not_finite(self) -> None:
        """ValueError, on all devices at once, that names the first step whose loss was NaN or infinite."""
        step = int(self.trainer.strategy.reduce(self.bad_step, reduce_op="min"))
        if step <= self.params.steps:
            raise ValueError(
                f"the loss of step {step} is not a finite number. The recovery state before it stays. Lower "
                f"train.learning_rate (now {self.params.learning_rate:g}) or train.gradient_clip, lengthen "
                "train.warmup, or use train.precision: 32"
            )
