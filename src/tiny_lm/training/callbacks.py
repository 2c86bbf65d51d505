"""What is measured and shown while a model trains. Nothing here can change a weight."""

from __future__ import annotations

import math
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


def step_ends(module: CausalLMModule, batch_idx: int) -> bool:
    """Whether this micro-batch is the last of its optimizer step."""
    return (batch_idx + 1) % module.params.accumulate == 0


def log_is_due(module: CausalLMModule) -> bool:
    return module.global_step % module.params.log_every == 0 or module.global_step == module.params.steps


class TokensMonitor(pl.Callback):
    """Logs losses, learning rate, gradient norm and tokens seen, and on the hardware side tokens per second and MFU.

    Time spent in validation and in saving is not counted. `flops_per_token` is that of forward and backward together.
    """

    def __init__(self, context_length: int, flops_per_token: float) -> None:
        self.context_length = context_length
        self.flops_per_token = flops_per_token
        self.tokens_per_second = 0.0
        self._seconds = 0.0
        self._steps = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, CausalLMModule)
        if not step_ends(module, batch_idx):
            return
        self._steps += 1
        if log_is_due(module):
            module.stop_if_not_finite()
            loss = float(module.train_loss)  # waits for the GPU, so the clock below is right
            tokens = module.params.batch_size * self.context_length
            seconds = time.perf_counter() - self._since
            self.tokens_per_second = self._steps * tokens / seconds
            figures = {
                "train_loss": loss,
                "train_ppl": math.exp(min(loss, 700.0)),
                "lr": module.learning_rate,
                "gradient_norm": float(module.gradient_norm),
                "tokens": float(module.global_step * tokens),
                HARDWARE + "tokens_per_second": self.tokens_per_second,
            }
            peak = _peak_flops(module.device)
            if peak:
                figures[HARDWARE + "mfu"] = self.tokens_per_second * self.flops_per_token / (peak * trainer.world_size)
            for logger in trainer.loggers:
                logger.log_metrics(figures, module.global_step)
            self._steps, self._since = 0, time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, CausalLMModule)
        self._since += time.perf_counter() - self._paused
        figures = {"val_loss": module.val_loss, "val_ppl": math.exp(min(module.val_loss, 700.0))}
        for logger in trainer.loggers:
            logger.log_metrics(figures, module.global_step)


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), None)


class GpuStatsMonitor(pl.Callback):
    """Logs memory (GB), utilization (%) and temperature (°C) of the GPU, read through NVML; nothing on a CPU."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, CausalLMModule)
        if module.device.type != "cuda" or not step_ends(module, batch_idx) or not log_is_due(module):
            return
        figures = {
            HARDWARE + "gpu_memory_gb": torch.cuda.max_memory_allocated(module.device) / 1e9,
            HARDWARE + "gpu_utilization": float(torch.cuda.utilization(module.device)),
            HARDWARE + "gpu_temperature": float(torch.cuda.temperature(module.device)),
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures, module.global_step)


class OptimizerStepProgressBar(pl.callbacks.ProgressBar):
    """A bar in optimizer steps with loss, tokens per second and time left; a line every `seconds` elsewhere."""

    def __init__(self, tokens: TokensMonitor, seconds: float = 15.0) -> None:
        super().__init__()
        self.tokens = tokens
        self.seconds = seconds

    def disable(self) -> None:
        """Lightning calls this on all devices but the first."""
        self.seconds = math.inf

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, CausalLMModule)
        terminal = sys.stderr.isatty() and self.seconds < math.inf
        self._bar = tqdm(
            total=module.params.steps, initial=module.global_step, unit="step", disable=not terminal, dynamic_ncols=True
        )
        self._first, self._started, self._said = module.global_step, time.monotonic(), time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, CausalLMModule)
        if not step_ends(module, batch_idx):
            return
        self._bar.update(module.global_step - self._bar.n)
        if log_is_due(module):
            val = "" if math.isnan(module.val_loss) else f" · val {module.val_loss:.3f}"
            self._text = f"loss {float(module.train_loss):.3f}{val} · {self.tokens.tokens_per_second:,.0f} tokens/s"
            self._bar.set_postfix_str(self._text, refresh=False)
            now = time.monotonic()
            last = module.global_step == module.params.steps
            if self._bar.disable and (now - self._said >= self.seconds or last) and self.seconds < math.inf:
                self._said = now
                done = module.global_step - self._first
                left = (now - self._started) / done * (module.params.steps - module.global_step)
                minutes, seconds = divmod(round(left), 60)
                print(
                    f"step {module.global_step}/{module.params.steps} · {self._text} · {minutes}:{seconds:02d} left",
                    file=sys.stderr, flush=True,
                )  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()
