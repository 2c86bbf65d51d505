"""Train: a model with fresh weights learns to predict the next token of the shards.

Ends with the weights that `train.keep` asks for in models/checkpoint, and the course of the training in results/train.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import resource
import statistics
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor, nn

from tiny_lm.checkpoint import save_checkpoint
from tiny_lm.evaluation.losses import token_losses
from tiny_lm.guard import Stage, run_stage
from tiny_lm.model.build import MODELS, build_model
from tiny_lm.model.flops import flops_per_token
from tiny_lm.model.loss import next_token_loss
from tiny_lm.shards.datamodule import BinTokenDataModule
from tiny_lm.shards.stream import verify_shards
from tiny_lm.training.callbacks import GpuStatsMonitor, OptimizerStepProgressBar, TokensMonitor
from tiny_lm.training.loggers import HARDWARE, LiveLogger, TrackioLogger
from tiny_lm.training.module import CausalLMModule
from tiny_lm.training.params import TrainParams
from tiny_lm.training.recovery import AtomicCheckpointIO, RecoveryCheckpoint


def main(stage: Stage) -> None:
    model_params = stage.section("model", MODELS)
    params = stage.section("train", TrainParams)
    metadata = verify_shards(Path("data/shards"), stage.runtime.progress)
    data = BinTokenDataModule(
        Path("data/shards"),
        context_length=model_params.context_length,
        stride=params.stride,
        batch_size=params.batch_size,
        micro_batch_size=params.micro_batch_size,
        steps=params.steps,
        seed=params.seed,
        val_documents=params.val_documents,
    )
    on_cuda = params.accelerator == "cuda" or (params.accelerator == "auto" and torch.cuda.is_available())
    _set_arithmetic(params)
    torch.manual_seed(params.seed)
    model = build_model(model_params, metadata.vocab_size)
    module = CausalLMModule(model, params, mean_loss, token_losses)

    logger = LiveLogger(Path("results/train"))
    recovery = RecoveryCheckpoint(stage.work_folder(), logger, on_save=lambda: _warn_of_changes(stage))
    weights = sum(p.numel() for name, p in model.named_parameters() if name != "position_emb.weight")
    tokens = TokensMonitor(
        model_params.context_length,
        flops_per_token(weights, model_params.n_layers, model_params.d_model, model_params.context_length),
    )
    trainer = pl.Trainer(
        accelerator="cuda" if on_cuda else "cpu",
        devices=params.devices,
        precision=params.precision if params.precision != "32" else "32-true",
        max_steps=params.steps,
        max_epochs=1,
        accumulate_grad_batches=params.accumulate,
        gradient_clip_val=params.gradient_clip,
        val_check_interval=min(params.validate_every, params.steps) * params.accumulate,
        num_sanity_val_steps=0,
        deterministic=params.deterministic,
        logger=[logger, *([TrackioLogger()] if "trackio" in stage.runtime.loggers else [])],
        callbacks=[tokens, GpuStatsMonitor(), recovery]
        + ([OptimizerStepProgressBar(tokens)] if stage.runtime.progress else []),
        enable_progress_bar=stage.runtime.progress,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        default_root_dir=".work",
    )
    resumed = recovery.resume_from()
    if resumed:
        stage.say("continues from the last recovery state")
    trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    module.stop_if_not_finite()

    best = params.keep == "best"
    if best:
        model.load_state_dict(recovery.best_weights)
    step = recovery.best_step if best else params.steps
    folder = Path("models/checkpoint")
    save_checkpoint(
        folder,
        model,
        tokenizer_digest=metadata.tokenizer,
        step=step,
        tokens_seen=step * params.batch_size * model_params.context_length,
        provenance={
            "tokenizer": metadata.tokenizer,
            "shards": hashlib.sha256(Path("data/shards/metadata.json").read_bytes()).hexdigest(),
        },
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(stage.values, sort_keys=False, allow_unicode=True))
    logger.summarize(
        {"best_val_loss": recovery.best_loss, "best_step": recovery.best_step, **_machine(logger, on_cuda)}
    )
    stage.say(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {params.steps} steps, best validation loss "
        f"{recovery.best_loss:.4f} at step {recovery.best_step}; kept step {step}"
    )


def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return next_token_loss(model.features(x), model.lm_head.weight, y)  # type: ignore[operator, union-attr, arg-type]


def _set_arithmetic(params: TrainParams) -> None:
    """What decides how sums are rounded, and Lightning's advice kept out of the output."""
    torch.set_num_threads(params.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA; no effect on a CPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # only costs time: nothing reads such memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def _warn_of_changes(stage: Stage) -> None:
    changed = stage.changes()
    if changed:
        stage.say(f"edited while training runs: {', '.join(changed)}; put that back, or this run will not be recorded")


def _machine(logger: LiveLogger, on_cuda: bool) -> dict[str, float | str]:
    """What the run took and on what: the part of the results that differs from run to run."""
    speeds = [m[HARDWARE + "tokens_per_second"] for _, m in logger.rows if HARDWARE + "tokens_per_second" in m]
    return {
        HARDWARE + "tokens_per_second": statistics.median(speeds),
        HARDWARE + "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (1e9 if sys.platform == "darwin" else 1e6),
        HARDWARE + "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
        HARDWARE + "python": platform.python_version(),
        HARDWARE + "torch": torch.__version__,
        HARDWARE + "lightning": pl.__version__,
    }


if __name__ == "__main__":
    run_stage("train", main)
