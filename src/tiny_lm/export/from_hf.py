"""Opens an export without transformers, which takes a second to import.

config.json and tokenizer.json must be exactly what we would write for the same model. So a folder of another program is
refused, even if the weights would fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tiny_lm.export.huggingface import DTYPES, huggingface_tensors, json_files, tokenizer_json
from tiny_lm.export.merges import unicode_to_bytes
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.io.files import read_json
from tiny_lm.io.params import check, load_params
from tiny_lm.model.checkpoint import checked_meta_model
from tiny_lm.model.registry import MODELS
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS

MAX_CONFIG, MAX_TOKENIZER = 2**20, 2**28  # bytes
REMEDY = (
    "`tiny-lm restore export` restores our export; `tiny-lm` opens only what its own export stage wrote, use "
    "transformers for other models"
)


def load_export(folder: Path) -> tuple[Transformer, Tokenizer]:
    """The model in eval mode, float32, on the CPU, and its tokenizer. ValueError, in one line, for anything else."""
    tokenizer = _load_tokenizer(folder / "tokenizer.json")
    return _load_model(folder, tokenizer).eval(), tokenizer


def _load_model(folder: Path, tokenizer: Tokenizer) -> Transformer:
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path, MAX_CONFIG, REMEDY)
    tensors = _load_tensors(weights)
    try:
        expected = _described(config, tokenizer, weights, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from error
    shapes = {name: tensor.shape for name, tensor in huggingface_tensors(expected).items()}
    dtype = DTYPES[config["torch_dtype"]]
    if {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == dtype} != shapes:
        raise ValueError(f"{weights}: does not contain the weights that config.json describes; {REMEDY}")

    model = expected.params.build(tokenizer.vocab_size)
    for layer, kind, group in ARCHITECTURES[model.params.architecture].groups(model):
        tensor = tensors[f"{layer.hf}.{kind}"]
        tensor = tensor.t() if layer.conv1d and kind == "weight" else tensor
        for part, chunk in zip(group, tensor.split([len(part) for part in group]), strict=True):
            part.copy_(chunk)
    return model


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not readable as safetensors ({error}); {REMEDY}") from error


def _described(config: dict[str, Any], tokenizer: Tokenizer, weights: Path, tensors: dict[str, Tensor]) -> Transformer:
    """The model that config.json describes, on the meta device. ValueError if we would not write this config.json."""
    names = {architecture.hf_type: name for name, architecture in ARCHITECTURES.items()}
    for key, known in (("model_type", names), ("torch_dtype", DTYPES)):
        check(config.get(key) in list(known), key, config.get(key), f"one of {', '.join(known)}")
    name, dtype = names[config["model_type"]], config["torch_dtype"]
    params = load_params("model", {"architecture": name, **ARCHITECTURES[name].params(config)}, MODELS, complete=True)
    itemsize = DTYPES[dtype].itemsize
    model = checked_meta_model(params, tokenizer.vocab_size, weights, tensors=len(tensors), itemsize=itemsize)
    ours = json_files(model, tokenizer, dtype)["config.json"]
    for key in {**config, **ours}:
        if config.get(key) != ours.get(key):
            raise ValueError(f"{key} = {repr(config.get(key))[:80]}: not exported by tiny-lm")
    return model


def _load_tokenizer(path: Path) -> Tokenizer:
    content = read_json(path, MAX_TOKENIZER, REMEDY)
    try:
        vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
        ranks = {unicode_to_bytes(text): rank for text, rank in vocabulary}
        if list(ranks.values()) != list(range(len(ranks))):
            raise ValueError("the ids of its vocabulary are not 0, 1, 2, …")
        regex = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        (pattern,) = [name for name, known in PATTERNS.items() if known == regex]
        tokenizer = Tokenizer(ranks, pattern)
        if tokenizer_json(tokenizer) != content:
            raise ValueError("it does not follow from its own vocabulary")
        return tokenizer
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a tokenizer that tiny-lm exported ({error}); {REMEDY}") from error
