"""One GGUF file, which llama.cpp and what is built on it open: weights, sizes, vocabulary and special tokens.

llama.cpp's RoPE turns neighbouring dimensions of a head together, ours the two halves: the rows of Llama's query and
key matrices are put in its order. Its GPT-2 has one matrix for query, key and value, with biases, which are 0 where
ours has none. It knows split patterns by name only, and not all of ours: see SPLITS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiny_lm.export.huggingface import joined
from tiny_lm.export.vocabulary import Vocabulary, bpe_merges, spell

SPLITS = {"llama3": "llama-bpe", "gpt2": "gpt-2"}  # our split pattern -> llama.cpp's name for the same
NEAREST = {"gpt4-digits2": "llama-bpe"}  # the same but for digits: in threes, where ours are in twos
OTHER = "runs of three digits and more may get other ids than in training, all other text gets the same"


def llama_cpp_pattern(pattern: str, *, approximate: bool) -> tuple[str, str]:
    """llama.cpp's name for a split pattern of ours, and a note where it is only the nearest one.

    ValueError if llama.cpp has no such pattern and `approximate` is False.
    """
    if pattern in SPLITS:
        return SPLITS[pattern], ""
    if approximate:
        return NEAREST[pattern], f"tokenizer {pattern} approximated by {NEAREST[pattern]}: {OTHER}"
    raise ValueError(
        f"tokenizer.pattern = {pattern}: llama.cpp has no such pattern; it has {' and '.join(SPLITS)}. Train with one "
        f"of them, or write the nearest one with --approximate: {OTHER}"
    )


def write_gguf(path: Path, model: Any, tokenizer: Vocabulary, *, pattern: str, dtype: str, note: str = "") -> None:
    """Writes `path` with a float32 `model` on the CPU; matrices in `dtype`, the rest in float32 as llama.cpp wants it.

    `pattern` is llama.cpp's name of the tokenizer's split pattern, `note` becomes the file's description. The file
    takes its name when it is whole. ValueError if `dtype` cannot hold a weight.
    """
    import gguf

    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {
        "float32": gguf.LlamaFileType.ALL_F32,
        "bfloat16": gguf.LlamaFileType.MOSTLY_BF16,
        "float16": gguf.LlamaFileType.MOSTLY_F16,
    }[dtype]
    params = model.params
    writer = gguf.GGUFWriter(temporary, "llama" if params.architecture == "llama3" else "gpt2")
    try:
        writer.add_name(f"tiny-lm {params.architecture}")
        if note:
            writer.add_description(note)
        writer.add_file_type(kind)
        _add_sizes(writer, params, tokenizer.vocab_size)
        _add_vocabulary(writer, tokenizer, pattern)
        for name, tensor in gguf_tensors(model).items():
            _add_tensor(writer, name, tensor, dtype if tensor.dim() == 2 else "float32")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def gguf_tensors(model: Any) -> dict[str, Tensor]:
    """The weights under llama.cpp's names and in its order; it takes the head from the token embedding."""
    weights, params = model.state_dict(), model.params
    llama = params.architecture == "llama3"
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module, kind = name.rsplit(".", 1)
        block = ""
        if module.startswith("blocks."):
            _, layer, module = module.split(".", 2)
            block = f"blk.{layer}."
        if module in _NAMES and (llama or module not in _JOINED):
            heads = {"attention.W_q": params.n_heads, "attention.W_k": params.n_kv_heads}.get(module)
            tensors[f"{block}{_NAMES[module]}.{kind}"] = tensor if heads is None else _interleave(tensor, heads)
    if not llama:
        for index in range(params.n_layers):
            ours, theirs = f"blocks.{index}.attention", f"blk.{index}.attn_qkv"
            tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"] = joined(weights, ours)
    return tensors


_NAMES = {
    "token_emb": "token_embd",
    "position_emb": "position_embd",
    "norm": "output_norm",
    "attention_norm": "attn_norm",
    "attention.W_q": "attn_q",
    "attention.W_k": "attn_k",
    "attention.W_v": "attn_v",
    "attention.out_proj": "attn_output",
    "feedforward_norm": "ffn_norm",
    "feedforward.w1": "ffn_gate",
    "feedforward.w2": "ffn_down",
    "feedforward.w3": "ffn_up",
    "feedforward.fc1": "ffn_up",
    "feedforward.fc2": "ffn_down",
}
_JOINED = ("attention.W_q", "attention.W_k", "attention.W_v")  # in GPT-2: attn_qkv


def _interleave(matrix: Tensor, heads: int) -> Tensor:
    """Rows of each head from (first half, second half) to pairs of one of either: (H D, d_model), the same shape."""
    rows, width = matrix.shape
    return matrix.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def _add_sizes(writer: Any, params: Any, vocab_size: int) -> None:
    writer.add_vocab_size(vocab_size)
    writer.add_context_length(params.context_length)
    writer.add_embedding_length(params.d_model)
    writer.add_block_count(params.n_layers)
    writer.add_head_count(params.n_heads)
    writer.add_head_count_kv(params.n_kv_heads)
    if params.architecture == "llama3":
        writer.add_feed_forward_length(params.feedforward_width)
        writer.add_layer_norm_rms_eps(params.norm_eps)
        writer.add_rope_dimension_count(params.d_model // params.n_heads)
        writer.add_rope_freq_base(params.rope_theta)
    else:
        writer.add_feed_forward_length(params.d_ff)
        writer.add_layer_norm_eps(1e-5)


def _add_vocabulary(writer: Any, tokenizer: Vocabulary, pattern: str) -> None:
    import gguf

    special, merges = tokenizer.special_tokens, list(bpe_merges(tokenizer.ranks))
    if not merges:
        raise ValueError(f"tokenizer.vocab_size = {tokenizer.vocab_size}: llama.cpp needs at least one token more")
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whichever architecture the model has
    writer.add_tokenizer_pre(pattern)
    tokens = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    writer.add_token_list([*map(spell, tokens), *special])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(tokens) + [int(gguf.TokenType.CONTROL)] * len(special))
    writer.add_token_merges([" ".join(map(spell, parts)) for parts in merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)  # a prompt is the beginning of a document, as in `tiny-lm generate`
    writer.add_add_eos_token(False)


def _add_tensor(writer: Any, name: str, tensor: Tensor, dtype: str) -> None:
    import gguf

    rounded = tensor.to(getattr(torch, dtype))
    if not rounded.isfinite().all():
        raise ValueError(f"--dtype {dtype}: cannot hold {name}: not all of it is finite")
    if dtype == "bfloat16":  # which NumPy does not have
        bits = rounded.contiguous().view(torch.uint16).numpy().view(np.uint8)
        writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, rounded.contiguous().numpy())
