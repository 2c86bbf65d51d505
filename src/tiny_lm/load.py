"""Opens a trained model and its tokenizer from any of its three forms on disk.

- a checkpoint, such as models/checkpoint; the tokenizer is the folder `tokenizer` next to it
- an export, such as models/export, which contains its tokenizer
- the resume checkpoint of an unfinished run, `.work/train/…/last.ckpt`; its tokenizer is models/tokenizer

Reading runs no code: resume checkpoints are read with `weights_only=True`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tiny_lm.export.from_hf import load_export
from tiny_lm.io.params import load_params
from tiny_lm.model.checkpoint import REMEDY, checked_meta_model, load_checkpoint
from tiny_lm.model.registry import MODELS
from tiny_lm.model.transformer import Transformer
from tiny_lm.runner.messages import OUT_OF_MEMORY
from tiny_lm.tokenizer.encode import Tokenizer

PREFIX = "model."  # of the model's weights in the Lightning module


def load_model(path: Path) -> tuple[Transformer, Tokenizer]:
    """The model in eval mode, float32, on the CPU, and its tokenizer. ValueError if it cannot be opened."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; {REMEDY}")
    if path.is_file():
        return _load_resume_checkpoint(path)
    if (path / "tokenizer.json").exists():
        return load_export(path)
    tokenizer = Tokenizer.load(path.parent / "tokenizer")
    return load_checkpoint(path, tokenizer.digest, tokenizer.vocab_size)[0], tokenizer


def _load_resume_checkpoint(path: Path) -> tuple[Transformer, Tokenizer]:
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name.removeprefix(PREFIX): tensor.float() for name, tensor in saved["state_dict"].items()}
        params, digest = load_params("model", saved["model"], MODELS, complete=True), saved["tokenizer"]
        if digest == tokenizer.digest:
            meta = checked_meta_model(params, tokenizer.vocab_size, path, tensors=len(weights), itemsize=2)
            if {name: t.shape for name, t in meta.state_dict().items()} != {
                name: t.shape for name, t in weights.items()
            }:
                raise ValueError("its weights do not have the shapes of its params")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an unpickler fails in many ways
        if OUT_OF_MEMORY.search(str(error)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise ValueError(f"{path}: not a resume checkpoint of `dvc repro train` ({reason})") from error
    if digest != tokenizer.digest:
        raise ValueError(
            f"models/tokenizer: is not the one that {path} was trained with; restore the params of its run, then "
            "`dvc repro tokenizer`"
        )
    model = params.build(tokenizer.vocab_size)
    model.load_state_dict(weights)
    return model.eval(), tokenizer
