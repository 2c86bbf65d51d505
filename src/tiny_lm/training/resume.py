"""Resume checkpoints: a run that was stopped continues as if nothing had happened.

A resume checkpoint is a Lightning checkpoint with the logged rows, the best weights and the model's params. Data order,
randomness and learning rate are functions of the step. It stays on this machine and is read with `weights_only=True`.
"""

import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tiny_lm.io.files import write_whole
from tiny_lm.runner.messages import OUT_OF_MEMORY
from tiny_lm.training.callbacks import StepCallback
from tiny_lm.training.datamodule import BinTokenDataModule
from tiny_lm.training.loggers import LiveLogger
from tiny_lm.training.module import CausalLMModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint atomically; Lightning's own way is not atomic if /tmp is on another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, *options: Any, **more: Any) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, *options, **more)
        except (OSError, MemoryError):  # the file may be fine
            raise
        except Exception as error:  # torch raises many types for damaged files and for pickles that would run code
            if OUT_OF_MEMORY.search(str(error)):
                raise
            raise ValueError(f"{path}: not a resume checkpoint of this run; delete it and run again") from error


class ResumeCheckpoint(StepCallback, Checkpoint):
    """Saves `folder/last.ckpt` every `checkpoint_every` steps and keeps the weights with the lowest validation loss.

    If a validation is due at the same step, saves after it, so a resumed run does not skip it. SIGTERM, SIGHUP (the
    terminal was closed) and Ctrl-C save at the end of the step and exit with 128 + signal.
    """

    def __init__(self, folder: Path, logger: LiveLogger, on_save: Callable[[], None]) -> None:
        self.path = folder / "last.ckpt"
        self.logger = logger
        self.on_save = on_save  # called after each save
        self.best_loss = float("inf")
        self.best_step = 0
        self.best_weights: dict[str, torch.Tensor] = {}
        self._signal = 0  # the signal that asked to stop
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
        if self._handlers[signal.SIGHUP] == signal.SIG_IGN:  # started with nohup
            del self._handlers[signal.SIGHUP]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.logger.rows, "best": (self.best_loss, self.best_step, self.best_weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss, self.best_step, self.best_weights = state_dict["best"]
        self.logger.restore(state_dict["rows"])

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what `load.py` needs to open the model."""
        data = cast(BinTokenDataModule, getattr(trainer, "datamodule"))  # noqa: B009  # Lightning does not declare it
        checkpoint["model"] = asdict(cast(CausalLMModule, module).model.params)
        checkpoint["tokenizer"] = data.dataset.stream.metadata.tokenizer

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning counts micro-batches of one device, and a run may resume on another number of devices."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        done = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, done))

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for logger in trainer.loggers[1:]:  # for these a resumed run is a new run, so it gets the earlier rows too
            for step, metrics in self.logger.rows:
                logger.log_metrics(metrics, step)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in self._handlers:
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, params = module.global_step, module.params
        if step == params.steps:
            trainer.should_stop = True  # then Lightning validates after the last step even if none is due
        elif step % params.validate_every != 0:
            self._save_if_due(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module = cast(CausalLMModule, module)
        module.stop_if_not_finite()
        if module.val_loss < self.best_loss:
            self.best_loss, self.best_step = module.val_loss, module.global_step
            self.best_weights = {name: t.detach().cpu().clone() for name, t in module.model.state_dict().items()}
        self._save_if_due(trainer, module)

    def _save_if_due(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, params = module.global_step, module.params
        stopping = trainer.strategy.reduce_boolean_decision(self._signal > 0, all=False)  # one process got a signal
        if step % params.checkpoint_every == 0 or step == params.steps or stopping:
            module.stop_if_not_finite()
            trainer.save_checkpoint(self.path)
            self.on_save()
        if stopping:
            raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
