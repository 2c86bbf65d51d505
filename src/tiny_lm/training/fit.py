"""The run of a training: from fresh weights, or from a checkpoint of a run that was stopped, to the trained weights.

Only this file and those that it imports need Lightning, whose import takes seconds.
"""

import inspect
import logging
import os
import platform
import resource
import statistics
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from tiny_lm.device import keep_memory, set_arithmetic, uses_cuda
from tiny_lm.io.files import sha256, write_whole
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import TransformerParams
from tiny_lm.runner.stage import FIRST, WORKER, Stage
from tiny_lm.training.bigrams import start_from_bigrams
from tiny_lm.training.callbacks import GpuStatsMonitor, OptimizerStepProgressBar, TokensMonitor
from tiny_lm.training.datamodule import BinTokenDataModule
from tiny_lm.training.ddp import FixedOrderDDP
from tiny_lm.training.loggers import HARDWARE, LiveLogger, start_logger
from tiny_lm.training.module import CausalLMModule
from tiny_lm.training.params import TrainParams
from tiny_lm.training.resume import AtomicCheckpointIO, ResumeCheckpoint

SHARDS, CHECKPOINT = Path("data/shards"), Path("models/checkpoint")


def fit(stage: Stage, model_params: TransformerParams, params: TrainParams, accumulate: int) -> None:
    """Writes the weights that `train.keep` asks for to models/checkpoint, and the metrics of the run to results/train.

    Each device sums the gradients of `accumulate` micro-batches per step.
    """
    devices, nodes = stage.runtime.devices, stage.runtime.nodes
    data = BinTokenDataModule(SHARDS, model_params.context_length, params)
    metadata = data.dataset.stream.metadata

    on_cuda = uses_cuda("train", params.accelerator, params.precision, devices, nodes)
    has_bf16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # some builds lack oneDNN
    if params.precision == "bf16-mixed" and not on_cuda and not has_bf16():
        stage.say("train.precision = bf16-mixed: slow on this CPU, which lacks bf16 instructions; use 32")
    keep_memory()
    set_arithmetic(params.threads, params.portable, cuda=on_cuda)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and nothing reads it
    warnings.filterwarnings(
        "ignore", module="pytorch_lightning|lightning_fabric|torch._weights_only_unpickler"
    )  # advice for others
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    torch.manual_seed(params.seed)
    model = build_model(model_params, metadata.vocab_size, params.initialization)
    if params.initialization == "bigrams":
        start_from_bigrams(model, data.dataset.stream)
    if params.compile:
        model.compile_loss()
    weight_decay = params.weight_decay_for(metadata.train.tokens, model_params.context_length)
    module = CausalLMModule(model, params, weight_decay)

    work = stage.work_folder()
    logger = LiveLogger(Path("results/train") if FIRST else work / f"rank{os.environ['RANK']}")
    others = [start_logger(name, work, stage.values) for name in sorted({*stage.runtime.loggers}) if FIRST]
    resume = ResumeCheckpoint(work, logger, on_save=stage.warn_of_changes)
    tokens = TokensMonitor(model_params.context_length)
    bar = [OptimizerStepProgressBar(tokens)] if stage.runtime.progress else []
    trainer = build_trainer(
        accelerator="cuda" if on_cuda else "cpu", devices=devices // nodes, num_nodes=nodes,
        strategy=FixedOrderDDP() if devices > 1 else "auto",
        precision=params.precision if params.precision != "32" else "32-true", deterministic=params.deterministic,
        max_steps=params.steps, max_epochs=1, accumulate_grad_batches=accumulate,
        gradient_clip_val=params.gradient_clip,
        val_check_interval=min(params.validate_every, params.steps) * accumulate, num_sanity_val_steps=0,
        logger=[logger, *others], callbacks=[GpuStatsMonitor(), tokens, resume, *bar],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        # without an environment, it looks for schedulers such as SLURM
        plugins=[AtomicCheckpointIO(), TorchElasticEnvironment() if WORKER else LightningEnvironment()],
        default_root_dir=work,
    )  # fmt: skip

    checkpoint = resume.path if resume.path.exists() else None
    if checkpoint:
        stage.say(f"resuming from {checkpoint}")
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    module.stop_if_not_finite()
    if devices > 1:  # Lightning leaves its threads running, which may abort the process at its end
        torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        return

    step = resume.best_step if params.keep == "best" else params.steps
    if params.keep == "best":
        model.load_state_dict(resume.best_weights)
    save_checkpoint(
        CHECKPOINT, model, tokenizer_digest=metadata.tokenizer, step=step,
        tokens_seen=step * params.batch_size * model_params.context_length,
        provenance={"tokenizer": metadata.tokenizer, "shards": sha256(SHARDS / "metadata.json")},
    )  # fmt: skip
    values = {"model": asdict(model_params), "train": asdict(params)}  # with the defaults of keys that were left out
    sections = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, encoding="utf-8")
    write_whole(CHECKPOINT / "params.yaml", lambda file: file.write(sections))
    best: dict[str, float | str] = {"best_val_loss": resume.best_loss, "best_step": resume.best_step}
    logger.summarize(_hardware_metrics(logger, on_cuda) | best)
    stage.say(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {params.steps} steps, weight decay "
        f"{weight_decay:.3g}, best validation loss "
        f"{resume.best_loss:.4f} at step {resume.best_step}; kept step {step}"
    )


def build_trainer(**arguments: Any) -> pl.Trainer:
    """A Trainer that is passed every argument: Lightning reads missing ones from PL_TRAINER_* variables."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(pl.Trainer).parameters.items()}
    return pl.Trainer(**defaults | arguments)


def _hardware_metrics(logger: LiveLogger, on_cuda: bool) -> dict[str, float | str]:
    """Speed, memory, device and versions, which differ between runs and machines."""
    speed = HARDWARE + "tokens_per_second"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes on Linux
    metrics: dict[str, float | str] = {
        "tokens_per_second": statistics.median(row[speed] for _, row in logger.rows if speed in row),
        "peak_memory_gb": memory / (1e9 if sys.platform == "darwin" else 1e6),
        "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "lightning": pl.__version__,
    }  # fmt: skip
    return {HARDWARE + name: value for name, value in metrics.items()}
