"""A model as one GGUF file for llama.cpp and what is built on it: weights, sizes, vocabulary and special tokens.

llama.cpp knows split patterns by name only, and does not have all of ours: see SPLITS. Its tables of letters and
numbers are those of Unicode 15, tiktoken's those of Unicode 16, so the 4,382 letters and numbers that are new in
Unicode 16 may be split differently, whatever the pattern.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tiny_lm.export.huggingface import DTYPES
from tiny_lm.export.merges import bytes_to_unicode, recover_merges
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.io.files import write_whole
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

SPLITS = {"llama3": "llama-bpe", "gpt2": "gpt-2"}  # our split pattern -> llama.cpp's name for the same one
NEAREST = {"gpt4-digits2": "llama-bpe"}  # the same except for digits: in groups of three, where ours are of two
DIFFERENCE = (
    "runs of three or more digits, and letters and numbers new in Unicode 16, may get other ids than in training; all "
    "other text gets the same ids"
)


def llama_cpp_pattern(pattern: str, *, approximate: bool) -> tuple[str, str]:
    """llama.cpp's name for a split pattern of ours, and a note if it is only the nearest one.

    ValueError if llama.cpp has no such pattern and `approximate` is False.
    """
    if pattern in SPLITS:
        return SPLITS[pattern], ""
    if approximate:
        return NEAREST[pattern], f"tokenizer {pattern} approximated by {NEAREST[pattern]}: {DIFFERENCE}"
    raise ValueError(
        f"tokenizer.pattern = {pattern}: llama.cpp has no such pattern, only {' and '.join(SPLITS)}. Train with one of "
        f"them, or pass --approximate to write the nearest one: {DIFFERENCE}"
    )


def write_gguf(
    path: Path, model: Transformer, tokenizer: Tokenizer, *, pattern: str, dtype: str, note: str = ""
) -> None:
    """Writes `path` from a float32 `model` on the CPU: matrices in `dtype`, the rest in float32, as llama.cpp requires.

    `pattern` is llama.cpp's name of the tokenizer's split pattern, `note` becomes the file's description. ValueError if
    `dtype` cannot hold a weight.
    """
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    file_type = {
        "float32": gguf.LlamaFileType.ALL_F32,
        "bfloat16": gguf.LlamaFileType.MOSTLY_BF16,
        "float16": gguf.LlamaFileType.MOSTLY_F16,
    }[dtype]
    params = model.params
    architecture = ARCHITECTURES[params.architecture]

    def write(draft: str) -> None:
        writer = gguf.GGUFWriter(draft, architecture.gguf)
        writer.add_name(f"tiny-lm {params.architecture}")
        if note:
            writer.add_description(note)
        writer.add_file_type(file_type)
        writer.add_vocab_size(tokenizer.vocab_size)
        for key, value in architecture.metadata(params).items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(key, value)
        _add_vocabulary(writer, tokenizer, pattern)
        for name, tensor in gguf_tensors(model).items():
            _add_tensor(writer, name, tensor, dtype if tensor.dim() == 2 else "float32")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_whole(path, lambda file: write(file.name))


def gguf_tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by llama.cpp's names; it uses the token embedding if there is no head."""
    return {
        f"{layer.gguf}.{kind}": _interleave(tensor, getattr(model.params, layer.rope_heads))
        if layer.rope_heads
        else tensor
        for layer, kind, tensor in ARCHITECTURES[model.params.architecture].tensors(model)
    }


def _interleave(matrix: Tensor, heads: int) -> Tensor:
    """Reorders the rows of each head from (first half, second half) to pairs of one each. (H D, d_model) throughout."""
    rows, width = matrix.shape
    return matrix.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, pattern: str) -> None:
    import gguf

    special, merges = tokenizer.special_tokens, list(recover_merges(tokenizer.ranks))
    if not merges:
        raise ValueError(f"tokenizer.vocab_size = {tokenizer.vocab_size}: llama.cpp needs at least one token more")
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whichever architecture the model has
    writer.add_tokenizer_pre(pattern)
    tokens = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    writer.add_token_list([*map(bytes_to_unicode, tokens), *special])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(tokens) + [int(gguf.TokenType.CONTROL)] * len(special))
    writer.add_token_merges([" ".join(map(bytes_to_unicode, parts)) for parts in merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)  # a prompt is the beginning of a document, as in `tiny-lm generate`
    writer.add_add_eos_token(False)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, dtype: str) -> None:
    import gguf

    rounded = tensor.to(DTYPES[dtype]).contiguous()
    if not rounded.isfinite().all():
        raise ValueError(f"--dtype {dtype}: cannot hold {name}: not all of its values stay finite")
    if dtype == "bfloat16":  # which NumPy does not have
        bits = rounded.view(torch.uint16).numpy().view(np.uint8)
        writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, rounded.numpy())
