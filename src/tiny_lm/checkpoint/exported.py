"""Opens what `export/huggingface.py` wrote, without transformers, which takes a second to import.

The names and shapes of the file are those that the exporter gives a model of the same sizes, and most of what it gives
are views of the model's own memory: what they are filled with is in the model. A folder that the exporter did not
write is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tiny_lm.checkpoint.reader import check_tables, largest_matrix, load_checkpoint
from tiny_lm.config import load_params, read_json
from tiny_lm.export.huggingface import DTYPES, huggingface_tensors, json_files, tokenizer_json
from tiny_lm.export.vocabulary import spell
from tiny_lm.model.build import MODELS, construct_model
from tiny_lm.model.gpt2 import GPT2
from tiny_lm.model.llama3 import Llama3
from tiny_lm.model.outline import outline
from tiny_lm.tokenizer.bpe import PATTERNS, Tokenizer

MAX_CONFIG, MAX_TOKENIZER = 2**20, 2**28  # bytes
OTHERS = (
    "`tiny-lm restore export` brings ours back; `tiny-lm` opens what its own export stage writes, other models are "
    "for transformers"
)

_LLAMA3 = {
    "context_length": "max_position_embeddings", "d_model": "hidden_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "d_ff": "intermediate_size",
    "rope_theta": "rope_theta", "norm_eps": "rms_norm_eps", "attention_dropout": "attention_dropout",
}  # fmt: skip
_GPT2 = {
    "context_length": "n_positions", "d_model": "n_embd", "n_layers": "n_layer", "n_heads": "n_head",
    "n_kv_heads": "n_head", "d_ff": "n_inner", "embedding_dropout": "embd_pdrop", "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
}  # fmt: skip


def load_export(folder: Path) -> tuple[GPT2 | Llama3, Tokenizer]:
    """The model in eval mode, float32, on the CPU, and its tokenizer. ValueError, in one line, for anything else."""
    tokenizer = _tokenizer(folder / "tokenizer.json")
    model = _model(folder, tokenizer)
    return model.eval(), tokenizer


def check_made_from(checkpoint: Path, folder: Path) -> None:
    """ValueError unless all of `folder` but its card is what the export stage makes of `checkpoint`."""
    exported, tokenizer = load_export(folder)
    model, _ = load_checkpoint(checkpoint, tokenizer.digest, tokenizer.vocab_size)
    dtype = read_json(folder / "config.json", MAX_CONFIG, OTHERS)["torch_dtype"]
    made = f"is not what the export stage makes of {checkpoint}; `dvc repro export` makes it"
    for name, content in json_files(model, tokenizer, dtype).items():  # tokenizer.json is compared when it is opened
        if read_json(folder / name, MAX_CONFIG, OTHERS) != content:
            raise ValueError(f"{folder / name}: {made}")
    found = huggingface_tensors(exported)
    for name, tensor in huggingface_tensors(model).items():
        if not torch.equal(found[name], tensor.to(DTYPES[dtype]).float()):
            raise ValueError(f"{folder / 'model.safetensors'}: {name} {made}")


def _model(folder: Path, tokenizer: Tokenizer) -> GPT2 | Llama3:
    path = folder / "config.json"
    config = read_json(path, MAX_CONFIG, OTHERS)
    llama = config.get("model_type") == "llama"
    values: dict[str, Any] = {"embedding_dropout": 0.0, "residual_dropout": 0.0}
    values |= {"architecture": "llama3"} if llama else {"architecture": "gpt2", "qkv_bias": True}
    values |= {ours: config.get(theirs) for ours, theirs in (_LLAMA3 if llama else _GPT2).items()}
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights}: not readable as safetensors ({error}); {OTHERS}") from error
    try:
        params: Any = load_params("model", values, MODELS)
        if params.n_layers > len(tensors):
            raise ValueError(f"{params.n_layers} layers, of which {weights} has not so many")
        if largest_matrix(params, tokenizer.vocab_size) > weights.stat().st_size:
            raise ValueError(f"{weights} is too small for a model of these sizes")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {OTHERS}") from error
    expected, dtype = outline(params, tokenizer.vocab_size), str(config.get("torch_dtype"))
    check_tables(expected, path)
    written = json_files(expected, tokenizer, dtype)["config.json"]
    wrong = [key for key in {**config, **written} if config.get(key) != written.get(key)]
    wrong += ["torch_dtype"] if dtype not in DTYPES else []
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} = {repr(config.get(wrong[0]))[:80]}: was not exported by us; {OTHERS}")
    shapes = {name: (tensor.shape, DTYPES[dtype]) for name, tensor in huggingface_tensors(expected).items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != shapes:
        raise ValueError(f"{weights}: has not the weights that config.json describes; {OTHERS}")

    model = construct_model(params, tokenizer.vocab_size)
    for name, view in huggingface_tensors(model).items():
        view.copy_(tensors[name])
    if not llama:  # whose joined matrix of queries, keys and values is no view
        for index, block in enumerate(model.blocks):
            attention: Any = block.attention
            for part in ("weight", "bias"):
                joined = tensors[f"transformer.h.{index}.attn.c_attn.{part}"].float()
                for ours, chunk in zip("qkv", joined.chunk(3, dim=-1), strict=True):
                    getattr(getattr(attention, f"W_{ours}"), part).data.copy_(chunk.t())
    return model


def _tokenizer(path: Path) -> Tokenizer:
    content = read_json(path, MAX_TOKENIZER, OTHERS)
    spelt = {spell(bytes([byte])): byte for byte in range(256)}
    try:
        vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
        ranks = {bytes(spelt[character] for character in token): rank for token, rank in vocabulary}
        pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        (name,) = [name for name, known in PATTERNS.items() if known == pattern]
        if tokenizer_json(Tokenizer(ranks, name), pattern) != content:
            raise ValueError("it is not the one of its own vocabulary")
        return Tokenizer(ranks, name)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a tokenizer that we exported ({error}); {OTHERS}") from error
