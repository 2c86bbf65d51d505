"""A folder that transformers opens: the model as LlamaForCausalLM or GPT2LMHeadModel, the tokenizer as tokenizer.json.

The folder takes its name only after transformers has opened it from disk, with no code but its own, and found the same
logits and the same token ids as ours. A Llama 3 is a pure rename. GPT-2's matrices are transposed (Conv1D), its query,
key and value matrices are one, with biases of 0 where ours has none.

The tokenizer adds nothing to a text and reads special tokens that are spelt out in it as text (`split_special_tokens`),
as ours does: whoever wants `<bos>` puts `bos_token_id` in front, and lm-evaluation-harness, which does, counts it once.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from tiny_lm.config import check
from tiny_lm.export.vocabulary import Vocabulary, bpe_merges, spell

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = 1e-5  # of a logit, relative to the largest one where that is over 1
TEXTS = (
    "Once upon a time, there was a little fox.\n\nShe said: \"I'm here, and you're not!\"\n",
    "def f(x):\n\tif x >= 1024:\r\n\t\treturn x**2  # 3.14159, 0x1F\n    \n",
    "Größe, naïveté, œuvre, İstanbul; Δοκιμή, Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया",
    "今日はいい天気ですね。你好，世界！한국어 문장입니다. ภาษาไทย",
    "👩‍👩‍👧‍👦 🇯🇵 e\u0301 \u200b\ufeff a\u00a0b\u3000c   \u2028 ½ ² Ⅻ ٣٤٥ १२३ 1234567",
    "<bos>special <eos> tokens <pad><unk> spelt out",
    " leading, trailing and double  spaces   ",
    "",
)


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    dtype: Literal["float32", "bfloat16", "float16"]  # of the exported weights


def check_exportable(params: Any) -> None:
    """ValueError if transformers has no class for a model of these params."""
    if params.architecture == "gpt2":
        allowed = f"n_heads = {params.n_heads} to be exported: transformers' GPT-2 has no grouped-query attention"
        check(params.n_kv_heads == params.n_heads, "model.n_kv_heads", params.n_kv_heads, allowed)


def write_export(folder: Path, model: Any, tokenizer: Vocabulary, *, split_pattern: str, dtype: str, card: str) -> None:
    """Writes `folder` with a float32 `model` on the CPU, or raises ValueError and leaves nothing.

    `split_pattern` is the tokenizer's regular expression, `card` the text of README.md.
    """
    check_exportable(model.params)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        weights = {name: tensor.to(DTYPES[dtype]).contiguous() for name, tensor in huggingface_tensors(model).items()}
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise ValueError(f"export.dtype = {dtype}: cannot hold {name}: not all of it is finite")
        (temporary / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        files = json_files(model, tokenizer, dtype) | {"tokenizer.json": tokenizer_json(tokenizer, split_pattern)}
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")
        verify_export(temporary, model, tokenizer)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def json_files(model: Any, tokenizer: Vocabulary, dtype: str) -> dict[str, dict[str, Any]]:
    """What the JSON files of the folder hold beside the vocabulary, by name."""
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    context_length = model.params.context_length
    return {
        "config.json": {**huggingface_config(model), **special, "torch_dtype": dtype},
        # transformers' own default, 256, would take a GPT-2 with a short context past its last position
        "generation_config.json": special | {"max_new_tokens": max(1, context_length // 2)},
        "tokenizer_config.json": tokenizer_config(context_length),
    }


# -- the model ---------------------------------------------------------------------------------------------------------


def huggingface_config(model: Any) -> dict[str, Any]:
    params = model.params
    shared = {"vocab_size": model.vocab_size, "tie_word_embeddings": True}
    if params.architecture == "llama3":
        return shared | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "max_position_embeddings": params.context_length,
            "hidden_size": params.d_model,
            "num_hidden_layers": params.n_layers,
            "num_attention_heads": params.n_heads,
            "num_key_value_heads": params.n_kv_heads,
            "head_dim": params.d_model // params.n_heads,
            "intermediate_size": params.feedforward_width,
            "hidden_act": "silu",
            "rms_norm_eps": params.norm_eps,
            "rope_theta": params.rope_theta,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": params.attention_dropout,
        }
    return shared | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": params.context_length,
        "n_embd": params.d_model,
        "n_layer": params.n_layers,
        "n_head": params.n_heads,
        "n_inner": params.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": params.embedding_dropout,
        "attn_pdrop": params.attention_dropout,
        "resid_pdrop": params.residual_dropout,
    }


def huggingface_tensors(model: Any) -> dict[str, Tensor]:
    """The model's weights under the names of transformers; the tied head is not repeated."""
    weights, params = model.state_dict(), model.params
    llama = params.architecture == "llama3"
    names = _LLAMA if llama else _GPT2
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        part = name.split(".", 2)[2] if name.startswith("blocks.") else name
        if part in names:
            theirs = names[part] if part == name else f"{names['blocks']}.{name.split('.')[1]}.{names[part]}"
            conv1d = not llama and part != name and tensor.dim() == 2
            tensors[theirs] = tensor.t() if conv1d else tensor
    if not llama:
        for index in range(params.n_layers):
            ours, theirs = f"blocks.{index}.attention", f"transformer.h.{index}.attn.c_attn"
            matrix, tensors[f"{theirs}.bias"] = joined(weights, ours)
            tensors[f"{theirs}.weight"] = matrix.t()
    return tensors


def joined(weights: Mapping[str, Tensor], attention: str) -> tuple[Tensor, Tensor]:
    """Queries, keys and values as one matrix ((H + 2K) D, d_model) and its bias, which is zero where ours has none."""
    parts = [f"{attention}.{part}" for part in ("W_q", "W_k", "W_v")]
    matrix = torch.cat([weights[f"{part}.weight"] for part in parts])
    bias = [weights[f"{part}.bias"] for part in parts if f"{part}.bias" in weights]
    return matrix, torch.cat(bias) if bias else torch.zeros(matrix.shape[0])


_LLAMA = {
    "token_emb.weight": "model.embed_tokens.weight",
    "blocks": "model.layers",
    "attention_norm.weight": "input_layernorm.weight",
    "attention.W_q.weight": "self_attn.q_proj.weight",
    "attention.W_k.weight": "self_attn.k_proj.weight",
    "attention.W_v.weight": "self_attn.v_proj.weight",
    "attention.out_proj.weight": "self_attn.o_proj.weight",
    "feedforward_norm.weight": "post_attention_layernorm.weight",
    "feedforward.w1.weight": "mlp.gate_proj.weight",
    "feedforward.w2.weight": "mlp.down_proj.weight",
    "feedforward.w3.weight": "mlp.up_proj.weight",
    "norm.weight": "model.norm.weight",
}
_GPT2 = {
    "token_emb.weight": "transformer.wte.weight",
    "position_emb.weight": "transformer.wpe.weight",
    "blocks": "transformer.h",
    "attention_norm.weight": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "attention.out_proj.weight": "attn.c_proj.weight",
    "attention.out_proj.bias": "attn.c_proj.bias",
    "feedforward_norm.weight": "ln_2.weight",
    "feedforward_norm.bias": "ln_2.bias",
    "feedforward.fc1.weight": "mlp.c_fc.weight",
    "feedforward.fc1.bias": "mlp.c_fc.bias",
    "feedforward.fc2.weight": "mlp.c_proj.weight",
    "feedforward.fc2.bias": "mlp.c_proj.bias",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}


# -- the tokenizer -----------------------------------------------------------------------------------------------------


def tokenizer_json(tokenizer: Vocabulary, split_pattern: str) -> dict[str, Any]:
    """The `tokenizers` library's form of byte-level BPE by ranks."""
    merges = [[spell(part) for part in parts] for parts in bpe_merges(tokenizer.ranks)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": split_pattern}, "behavior": "Isolated", "invert": False}
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
            "ignore_merges": True,  # as tiktoken: a piece that is a token is that token
            "vocab": {spell(token): rank for token, rank in tokenizer.ranks.items()},
            "merges": merges,
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
        "padding_side": "left",  # where prompts of a batch must be padded: what follows is at the right
        "model_max_length": context_length,
    }


# -- the proof ---------------------------------------------------------------------------------------------------------


def verify_export(folder: Path, model: Any, tokenizer: Vocabulary) -> None:
    """ValueError unless transformers, from `folder`, has our token ids and our logits.

    In 16 bits the weights are rounded, so the model that is compared with is ours with the same rounding.
    """
    import transformers  # here, so that what reads an export does not wait for it

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    special = (theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id, theirs.unk_token_id)
    if special != (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id):
        raise ValueError(f"the exported tokenizer has the special ids {special}, which are not ours")
    texts = [*TEXTS, *random_texts(500)]
    sequences = [[int(token) for token in tokenizer.encode(text)] for text in texts]
    for text, ids in zip(texts, sequences, strict=True):
        found = theirs(text)["input_ids"]
        if found != ids or theirs.decode(ids) != text:
            raise ValueError(f"the exported tokenizer reads {text[:60]!r} as {found[:20]}, ours as {ids[:20]}")

    dtype = json.loads((folder / "config.json").read_bytes())["torch_dtype"]
    ours = copy.deepcopy(model)
    for parameter in ours.parameters():  # and not RoPE's tables, which no file holds
        parameter.data = parameter.data.to(DTYPES[dtype]).float()
    exported = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    context_length = model.params.context_length
    stream = [token for ids in sequences for token in (tokenizer.bos_id, *ids, tokenizer.eos_id)]
    anything = torch.randint(0, tokenizer.vocab_size, (1, context_length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for tokens in (torch.tensor([stream[:context_length]]), anything):  # (1, T): text, and all positions
            expected, found = ours.eval()(tokens), exported.eval()(tokens).logits
            difference = float((expected - found).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
                raise ValueError(f"the exported model's logits differ from ours by up to {difference:.2g}")


def random_texts(count: int) -> list[str]:
    """Short texts of characters from all of Unicode, by a fixed seed."""
    draw = random.Random(0)
    blocks = """20-7f 20-7f 9-d 30-39 a0-24f 370-6ff 900-dff 2000-2bff 3000-9fff ac00-d7a3 e000-fffd 1f300-1faff
        10000-10ffff"""
    ranges = [[int(end, 16) for end in block.split("-")] for block in blocks.split()]
    return ["".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40))) for _ in range(count)]
