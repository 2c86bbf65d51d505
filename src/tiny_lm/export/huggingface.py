"""The files of a Hugging Face model folder, for our model and tokenizer.

The tokenizer adds nothing to a text and reads special tokens in it as text (`split_special_tokens`), as ours does. If
you want `<bos>`, prepend `bos_token_id`; lm-evaluation-harness does, so it is there once.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tiny_lm.export.merges import bytes_to_unicode, recover_merges
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_files(model: Transformer, tokenizer: Tokenizer, dtype: str) -> dict[str, bytes]:
    """The files of an export by name, except the model card. ValueError if `dtype` cannot hold a weight."""
    tensors = huggingface_tensors(model).items()
    weights = {name: cast(tensor, dtype, name, option="export.dtype") for name, tensor in tensors}
    files = {"model.safetensors": save(weights, metadata={"format": "pt"})}
    for name, content in (json_files(model, tokenizer, dtype) | {"tokenizer.json": tokenizer_json(tokenizer)}).items():
        files[name] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def cast(tensor: Tensor, dtype: str, name: str, *, option: str) -> Tensor:
    """The tensor in `dtype`. ValueError, which names the `option` that sets it, if `dtype` cannot hold a value."""
    rounded = tensor.to(DTYPES[dtype]).contiguous()
    if not rounded.isfinite().all():
        raise ValueError(f"{option} = {dtype}: cannot hold {name}, which has larger values; use float32")
    return rounded


def huggingface_tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by their names in transformers, without a tied head."""
    return {
        f"{layer.hf}.{kind}": tensor.t() if layer.conv1d and kind == "weight" else tensor
        for layer, kind, tensor in ARCHITECTURES[model.params.architecture].tensors(model)
    }


def huggingface_config(model: Transformer) -> dict[str, Any]:
    architecture = ARCHITECTURES[model.params.architecture]
    return {
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.params.ties_embeddings,
        "architectures": [architecture.hf_class],
        "model_type": architecture.hf_type,
        **architecture.config(model.params),
    }


def json_files(model: Transformer, tokenizer: Tokenizer, dtype: str) -> dict[str, dict[str, Any]]:
    """The contents of the JSON files by name, except tokenizer.json."""
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    context_length = model.params.context_length
    return {
        "config.json": {**huggingface_config(model), **special, "torch_dtype": dtype},
        # transformers' default of 256 new tokens would take a GPT-2 with a short context beyond its last position
        "generation_config.json": special | {"max_new_tokens": max(1, context_length // 2)},
        "tokenizer_config.json": tokenizer_config(context_length),
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Byte-level BPE by ranks, in the format of the `tokenizers` library."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pattern = {"Regex": PATTERNS[tokenizer.pattern]}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token} | flags for token, number in tokenizer.special_tokens.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # as tiktoken does: a chunk that is a token is not split
            "vocab": {bytes_to_unicode(token): rank for token, rank in tokenizer.ranks.items()},
            "merges": [[*map(bytes_to_unicode, parts)] for parts in recover_merges(tokenizer.ranks)],
        },
    }


def tokenizer_config(context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "split_special_tokens": True,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # so that in a padded batch, new tokens directly follow the prompts
        "model_max_length": context_length,
    }
