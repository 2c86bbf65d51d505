"""A killed run continues as if nothing had happened.

The recovery state holds weights, optimizer, metric rows and the best weights; all else is a function of the step.
It is Lightning's own checkpoint, whole or not there, stays on this machine, and is read with `weights_only=True`.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tiny_lm.files import write_whole
from tiny_lm.training.callbacks import StepCallback
from tiny_lm.training.loggers import LiveLogger
from tiny_lm.training.module import CausalLMModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole files: Lightning's own way goes through the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, *options: Any, **more: Any) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, *options, **more)
        except Exception as error:  # torch has many words for a damaged file, and for one that would run code
            raise ValueError(f"{path}: not a recovery state that this run saved; delete it, and run again") from error


class RecoveryCheckpoint(StepCallback, Checkpoint):
    """Saves `folder/last.ckpt` every `checkpoint_every` steps, after a validation that is due at the same step, and
    keeps the weights with the lowest validation loss. SIGTERM (a machine that is taken away), SIGHUP (a closed
    terminal) and Ctrl-C save first.
    """

    def __init__(self, folder: Path, logger: LiveLogger, on_save: Callable[[], None]) -> None:
        self.path = folder / "last.ckpt"
        self.logger = logger
        self.on_save = on_save  # called after each save; warns if params, code or data were edited meanwhile
        self.best_loss = float("inf")
        self.best_step = 0
        self.best_weights: dict[str, torch.Tensor] = {}
        self._signal = 0  # that has asked for the end
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
        if self._previous[signal.SIGHUP] == signal.SIG_IGN:  # started with nohup
            del self._previous[signal.SIGHUP]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.logger.rows, "best": (self.best_loss, self.best_step, self.best_weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.best_step, self.best_weights = state["best"]
        self.logger.restore(state["rows"])

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for other in trainer.loggers[1:]:  # a resumed run is a new one there, and begins with all its rows
            for step, metrics in self.logger.rows:
                other.log_metrics(metrics, step)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in self._previous:
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: Any) -> None:
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step's end

    def on_step_end(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, params = module.global_step, module.params
        if step == params.steps:
            trainer.should_stop = True  # makes Lightning validate after the last step, also between two intervals
        elif step % params.validate_every != 0:
            self._save_if_due(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        module.stop_if_not_finite()
        if module.val_loss < self.best_loss:
            self.best_loss, self.best_step = module.val_loss, module.global_step
            self.best_weights = {name: t.detach().cpu().clone() for name, t in module.model.state_dict().items()}
        self._save_if_due(trainer, module)

    def _save_if_due(self, trainer: pl.Trainer, module: CausalLMModule) -> None:
        step, params = module.global_step, module.params
        terminated = trainer.strategy.reduce_boolean_decision(self._signal > 0, all=False)  # which one device has seen
        if step % params.checkpoint_every == 0 or step == params.steps or terminated:
            module.stop_if_not_finite()
            trainer.save_checkpoint(self.path)
            self.on_save()
        if terminated:
            raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.strategy.launcher:  # Lightning would kill this process, too, while the earlier outputs come back
            trainer.strategy.launcher.kill(signal.SIGKILL)
            trainer.strategy.launcher.procs.clear()  # type: ignore[attr-defined]

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
