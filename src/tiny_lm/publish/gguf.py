"""Writes a model as one GGUF file for llama.cpp and programs based on it: weights, sizes, vocabulary, special tokens.

llama.cpp has a fixed list of split patterns, without one of ours: see SPLITS. Its tables of letters and numbers are
those of Unicode 15, tiktoken's those of Unicode 16, so the 4,382 letters and numbers that are new in Unicode 16 may be
split differently, whatever the pattern.
"""

from __future__ import annotations

from pathlib import Path

from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quantize
from torch import Tensor

from tiny_lm.export.huggingface import cast
from tiny_lm.export.merges import bytes_to_unicode, recover_merges
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.io.files import AtomicFile
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer

SPLITS = {"llama3": "llama-bpe", "gpt2": "gpt-2"}  # our split pattern -> llama.cpp's name for the same one
NEAREST = {"gpt4-digits2": "llama-bpe"}  # the same except for digits: groups of three instead of two
DIFFERENCE = (
    "runs of three or more digits, and letters and numbers new in Unicode 16, may get other ids than in training; all "
    "other text gets the same ids"
)
TYPES = {
    "float32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "bfloat16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "float16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
}


def llama_cpp_pattern(pattern: str, *, approximate: bool) -> tuple[str, str]:
    """llama.cpp's name for our split pattern, and a note if it is only the nearest one.

    ValueError if llama.cpp does not have the pattern and `approximate` is False.
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

    `pattern` is llama.cpp's name for the split pattern, `note` becomes the file's description. ValueError if `dtype`
    cannot hold a weight.
    """
    architecture = ARCHITECTURES[model.params.architecture]
    path.parent.mkdir(parents=True, exist_ok=True)
    with AtomicFile(path) as draft:
        writer = GGUFWriter(draft.file.name, architecture.gguf)
        writer.add_name(f"tiny-lm {model.params.architecture}")
        if note:
            writer.add_description(note)
        writer.add_file_type(TYPES[dtype][0])
        writer.add_vocab_size(tokenizer.vocab_size)
        for key, value in architecture.metadata(model.params).items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(key, value)
        _add_vocabulary(writer, tokenizer, pattern)
        for name, tensor in gguf_tensors(model).items():
            stored_as = dtype if tensor.dim() == 2 else "float32"
            weights = cast(tensor, stored_as, name, option="--dtype").float().numpy()
            writer.add_tensor(name, quantize(weights, TYPES[stored_as][1]), raw_dtype=TYPES[stored_as][1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gguf_tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by llama.cpp's names, without a tied head: llama.cpp then uses the token embedding."""
    return {
        f"{layer.gguf}.{kind}": _interleave(tensor, getattr(model.params, layer.rope_heads))
        if layer.rope_heads
        else tensor
        for layer, kind, tensor in ARCHITECTURES[model.params.architecture].tensors(model)
    }


def _interleave(matrix: Tensor, heads: int) -> Tensor:
    """Reorders the rows of each head, (H D, d_model), so that each of the first half is followed by its counterpart in
    the second half.
    """
    rows, width = matrix.shape
    return matrix.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, pattern: str) -> None:
    special, merges = tokenizer.special_tokens, list(recover_merges(tokenizer.ranks))
    if not merges:
        raise ValueError(f"tokenizer.vocab_size = {tokenizer.vocab_size}: llama.cpp needs at least one token more")
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whatever the architecture of the model
    writer.add_tokenizer_pre(pattern)
    tokens = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    writer.add_token_list([*map(bytes_to_unicode, tokens), *special])
    writer.add_token_types([int(TokenType.NORMAL)] * len(tokens) + [int(TokenType.CONTROL)] * len(special))
    writer.add_token_merges([" ".join(map(bytes_to_unicode, parts)) for parts in merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)  # a prompt is the beginning of a document, as in `tiny-lm generate`
    writer.add_add_eos_token(False)
