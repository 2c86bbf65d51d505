"""Metrics and progress of a training run. Nothing here can change a weight."""

import contextlib
import math
import re
import sys
import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from tiny_lm.training.loggers import HARDWARE
from tiny_lm.training.module import CausalLMModule

# Dense FLOP/s in bf16 (T4 and V100: fp16) from the vendors' data sheets; MFU is logged for these cards only.
PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12,
    "RTX 5090": 209.5e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12, "T4": 65e12, "V100-SXM2": 125e12,
}  # fmt: skip
LINE_SECONDS = 15.0  # between two lines of progress if stderr is not a terminal


class StepCallback(pl.Callback):
    """A callback per optimizer step instead of per micro-batch."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step_end(trainer, cast(CausalLMModule, module))

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        """Called after each optimizer step."""


class TokensMonitor(StepCallback):
    """Logs loss, learning rate and gradient norm of a step, tokens per second without validation, and MFU."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self.tokens_per_second = 0.0
        self.train_loss = math.nan  # of the last logged step

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._step, self._since = module.global_step, time.perf_counter()

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        if not module.log_is_due:
            return
        module.stop_if_not_finite()
        loss = self.train_loss = module.compute_train_loss()  # waits for the GPU, so read the clock after it
        step, now = module.global_step, time.perf_counter()
        tokens = module.params.batch_size * self.context_length  # per step
        self.tokens_per_second = (step - self._step) * tokens / (now - self._since)
        self._step, self._since = step, now
        metrics = {
            "train_loss": loss, "train_ppl": math.exp(min(loss, 700.0)), "lr": module.learning_rate,
            "gradient_norm": float(module.gradient_norm), "tokens": float(step * tokens),
            HARDWARE + "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip
        if peak := _peak_flops(module.device):
            flops = module.model.flops_per_token(module.params.vocabulary_at(step - 1))
            metrics[HARDWARE + "mfu"] = self.tokens_per_second * flops / (peak * trainer.world_size)
        _log(trainer, metrics)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since += time.perf_counter() - self._paused
        loss = cast(CausalLMModule, module).val_loss
        _log(trainer, {"val_loss": loss, "val_ppl": math.exp(min(loss, 700.0))})


class GpuStatsMonitor(StepCallback):
    """Logs memory (GB), utilization (%) and temperature (°C) of the GPU, read through NVML; nothing on a CPU."""

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        if module.device.type == "cuda" and module.log_is_due:
            metrics = {"gpu_memory_gb": torch.cuda.max_memory_allocated(module.device) / 1e9}
            with contextlib.suppress(Exception):  # NVML reports nothing for a MIG slice and in some containers
                metrics["gpu_utilization"] = float(torch.cuda.utilization(module.device))
                metrics["gpu_temperature"] = float(torch.cuda.temperature(module.device))
            _log(trainer, {HARDWARE + name: value for name, value in metrics.items()})


class OptimizerStepProgressBar(StepCallback):
    """A bar that counts optimizer steps; without a terminal, a line now and then."""

    def __init__(self, tokens: TokensMonitor) -> None:
        self.tokens = tokens

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        hidden = not sys.stderr.isatty() or not trainer.is_global_zero
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=hidden, dynamic_ncols=True)
        self._first_step, self._started, self._printed = step, time.monotonic(), time.monotonic()

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, steps = module.global_step, module.params.steps
        self._bar.update(step - self._bar.n)
        if not module.log_is_due:
            return
        val = "" if math.isnan(module.val_loss) else f" · val {module.val_loss:.3f}"
        text = f"loss {self.tokens.train_loss:.3f}{val} · {self.tokens.tokens_per_second:,.0f} tokens/s"
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._bar.disable and trainer.is_global_zero and (now - self._printed >= LINE_SECONDS or step == steps):
            self._printed = now
            left = tqdm.format_interval((now - self._started) / (step - self._first_step) * (steps - step))
            with contextlib.suppress(OSError):  # the terminal or the pipe was closed
                print(f"step {step}/{steps} · {text} · {left} left", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()


def _log(trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    for logger in trainer.loggers if trainer.is_global_zero else ():
        logger.log_metrics(metrics, trainer.global_step)


def _peak_flops(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    other = r"(?! NVL| Laptop| Ti\b| D\b|.* MIG)"  # another card, or a part of one
    return next((peak for card, peak in PEAK_FLOPS.items() if re.search(rf"\b{card}\b{other}", name)), None)
