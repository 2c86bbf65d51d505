"""What is measured and shown while a model trains. Nothing here can change a weight."""

import contextlib
import math
import re
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from tiny_lm.training.loggers import HARDWARE
from tiny_lm.training.module import CausalLMModule

# Dense bf16 products in FLOP/s, from the makers' data sheets; MFU is logged where the card is one of these.
PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12,
    "RTX 5090": 209.5e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12, "T4": 65e12, "V100": 125e12,
}  # fmt: skip
SECONDS = 15.0  # between two lines where there is no terminal


class StepCallback(pl.Callback):
    """A callback that counts in optimizer steps, whatever the number of their micro-batches."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % module.params.accumulate == 0:
            self.on_step_end(trainer, module)

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        """Called after each optimizer step."""


class TokensMonitor(StepCallback):
    """Logs figures of the step, tokens per second and MFU, validation not counted; FLOPs of forward and backward."""

    def __init__(self, context_length: int, flops_per_token: float) -> None:
        self.context_length = context_length
        self.flops_per_token = flops_per_token
        self.tokens_per_second = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._step, self._since = module.global_step, time.perf_counter()

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        if not module.log_is_due:
            return
        module.stop_if_not_finite()
        loss = float(trainer.strategy.reduce(module.train_loss))  # waits for the GPU, so the clock below is right
        step, now = module.global_step, time.perf_counter()
        tokens = module.params.batch_size * self.context_length  # of a step
        self.tokens_per_second = (step - self._step) * tokens / (now - self._since)
        self._step, self._since = step, now
        figures = {
            "train_loss": loss, "train_ppl": math.exp(min(loss, 700.0)), "lr": module.learning_rate,
            "gradient_norm": float(module.gradient_norm), "tokens": float(step * tokens),
            HARDWARE + "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip
        if peak := _peak_flops(module.device):
            figures[HARDWARE + "mfu"] = self.tokens_per_second * self.flops_per_token / (peak * trainer.world_size)
        _log(trainer, figures)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._since += time.perf_counter() - self._paused
        _log(trainer, {"val_loss": module.val_loss, "val_ppl": math.exp(min(module.val_loss, 700.0))})


class GpuStatsMonitor(StepCallback):
    """Logs memory (GB), utilization (%) and temperature (°C) of the GPU, read through NVML; nothing on a CPU."""

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        if module.device.type == "cuda" and module.log_is_due:
            figures = {"gpu_memory_gb": torch.cuda.max_memory_allocated(module.device) / 1e9}
            with contextlib.suppress(Exception):  # of a part of a card, and in some containers, NVML says nothing
                figures["gpu_utilization"] = float(torch.cuda.utilization(module.device))
                figures["gpu_temperature"] = float(torch.cuda.temperature(module.device))
            _log(trainer, {HARDWARE + name: value for name, value in figures.items()})


class OptimizerStepProgressBar(StepCallback):
    """A bar in optimizer steps with loss, tokens per second and time left; a line every few seconds elsewhere."""

    def __init__(self, tokens: TokensMonitor) -> None:
        self.tokens = tokens

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        hidden = not sys.stderr.isatty() or not trainer.is_global_zero
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=hidden, dynamic_ncols=True)
        self._first, self._started, self._said = step, time.monotonic(), time.monotonic()

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, steps = module.global_step, module.params.steps
        self._bar.update(step - self._bar.n)
        if not module.log_is_due:
            return
        val = "" if math.isnan(module.val_loss) else f" · val {module.val_loss:.3f}"
        text = f"loss {float(module.train_loss):.3f}{val} · {self.tokens.tokens_per_second:,.0f} tokens/s"
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._bar.disable and trainer.is_global_zero and (now - self._said >= SECONDS or step == steps):
            self._said = now
            left = (now - self._started) / (step - self._first) * (steps - step)
            with contextlib.suppress(OSError):  # nobody reads it any more: the terminal or the pipe is closed
                print(f"step {step}/{steps} · {text} · {tqdm.format_interval(left)} left", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()


def _log(trainer: pl.Trainer, figures: dict[str, float]) -> None:
    for logger in trainer.loggers if trainer.is_global_zero else ():
        logger.log_metrics(figures, trainer.global_step)


def _peak_flops(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    whole = (peak for card, peak in PEAK_FLOPS.items() if re.search(rf"\b{card}\b(?! NVL| Laptop|.* MIG)", name))
    return next(whole, None)
