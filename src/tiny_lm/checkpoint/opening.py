"""Opens a trained model and its tokenizer from any of the three places where there is one.

- a checkpoint folder, such as models/checkpoint; the tokenizer is the folder `tokenizer` beside it
- an export folder, such as models/export, which holds its tokenizer
- the recovery state of a training that goes on, `.work/train/…/last.ckpt`; the tokenizer is models/tokenizer, the
  sizes are those of params.yaml, for the state holds neither

Reading runs no code: the recovery state, too, is read with `weights_only=True`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from tiny_lm.checkpoint.exported import load_export
from tiny_lm.checkpoint.reader import REMEDY, load_checkpoint
from tiny_lm.config import load_params, read_yaml
from tiny_lm.model.build import MODELS, construct_model
from tiny_lm.model.gpt2 import GPT2
from tiny_lm.model.llama3 import Llama3
from tiny_lm.shards.format import read_metadata
from tiny_lm.tokenizer.bpe import Tokenizer

PREFIX = "model."  # of the model's weights within the Lightning module


def open_model(path: Path) -> tuple[GPT2 | Llama3, Tokenizer]:
    """The model in eval mode, float32, on the CPU, and its tokenizer. ValueError, in one line, for anything else."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; {REMEDY}")
    if path.is_file():
        return _open_recovery(path)
    if (path / "tokenizer.json").exists():
        return load_export(path)
    tokenizer = Tokenizer.load(path.parent / "tokenizer")
    return load_checkpoint(path, tokenizer.digest, tokenizer.vocab_size)[0], tokenizer


def _open_recovery(path: Path) -> tuple[GPT2 | Llama3, Tokenizer]:
    tokenizer, shards = Tokenizer.load(Path("models/tokenizer")), Path("data/shards")
    if read_metadata(shards).tokenizer != tokenizer.digest:
        raise ValueError(f"models/tokenizer: is not the one that {shards} was made with; `dvc repro shards` makes both")
    params: Any = load_params("model", read_yaml(Path("params.yaml")).get("model"), MODELS)
    model = construct_model(params, tokenizer.vocab_size)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        weights = {name.removeprefix(PREFIX): tensor.float() for name, tensor in state.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: neither a model's folder nor a recovery state of `dvc repro train`") from error
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        ours, theirs = ("missing" if name not in at else list(at[name].shape) for at in (expected, weights))
        if ours != theirs:
            raise ValueError(
                f"{path}: {name} is {theirs}, by params.yaml and models/tokenizer {ours}; put back those that it is "
                "being trained with"
            )
    model.load_state_dict(weights)
    return model.eval(), tokenizer
