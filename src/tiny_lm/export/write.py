"""Writes a Hugging Face model folder, and verifies it before it gets its name.

transformers opens the folder from disk, running no code but its own, and must return our logits and token ids.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from tiny_lm.export.from_hf import check_exported_from
from tiny_lm.export.huggingface import DTYPES, huggingface_tensors, json_files, tokenizer_json
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.model.transformer import Transformer, TransformerParams
from tiny_lm.tokenizer.bpe import Tokenizer

TOLERANCE = 1e-5  # of a logit, relative to the largest one if that is above 1
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


def check_exportable(params: TransformerParams) -> None:
    """ValueError if transformers cannot represent a model with these params."""
    ARCHITECTURES[params.architecture].check_exportable(params)


def write_export(folder: Path, model: Transformer, tokenizer: Tokenizer, *, dtype: str, card: str) -> None:
    """Writes `folder` from a float32 `model` on the CPU, or raises ValueError and leaves nothing.

    `card` is the text of README.md.
    """
    check_exportable(model.params)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        weights = {name: tensor.to(DTYPES[dtype]).contiguous() for name, tensor in huggingface_tensors(model).items()}
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise ValueError(f"export.dtype = {dtype}: cannot hold {name}: not all of its values stay finite")
        (temporary / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        files = json_files(model, tokenizer, dtype) | {"tokenizer.json": tokenizer_json(tokenizer)}
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")
        verify_export(temporary, model, tokenizer, dtype)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify_export(folder: Path, model: Transformer, tokenizer: Tokenizer, dtype: str) -> None:
    """ValueError unless transformers returns our token ids and our logits from `folder`, and we can open it as well."""
    import transformers  # takes a second, which nothing but this needs

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sequences = _verify_token_ids(folder, tokenizer)
    context_length = model.params.context_length
    stream = [token for ids in sequences for token in (tokenizer.bos_id, *ids, tokenizer.eos_id)]
    anything = torch.randint(0, tokenizer.vocab_size, (1, context_length), generator=torch.Generator().manual_seed(0))
    _verify_logits(folder, model, dtype, [torch.tensor([stream[:context_length]]), anything])  # text, and all positions
    check_exported_from(model, tokenizer, folder, dtype)


def _verify_token_ids(folder: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of some texts, which transformers reads alike."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    special = (theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id, theirs.unk_token_id)
    if special != (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id):
        raise ValueError(f"the exported tokenizer has the special ids {special}, which are not ours")
    sequences = []
    for text in (*TEXTS, *random_texts(500)):
        ids: list[int] = tokenizer.encode(text).tolist()
        found = theirs(text)["input_ids"]
        if found != ids or theirs.decode(ids) != text:
            raise ValueError(f"the exported tokenizer reads {text[:60]!r} as {found[:20]}, ours as {ids[:20]}")
        sequences.append(ids)
    return sequences


def _verify_logits(folder: Path, model: Transformer, dtype: str, batches: list[Tensor]) -> None:
    """In 16 bits the weights are rounded, so the reference is our model with the same rounding."""
    import transformers

    ours = copy.deepcopy(model).eval()
    for parameter in ours.parameters():  # and not RoPE's tables, which are in no file
        parameter.data = parameter.data.to(DTYPES[dtype]).float()
    exported = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    for tokens in batches:
        with torch.inference_mode():
            expected, found = ours(tokens), exported.eval()(tokens).logits
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(f"the exported model's logits differ from ours by up to {difference:.2g}")


def random_texts(count: int) -> list[str]:
    """Short texts of characters from all of Unicode, with a fixed seed."""
    draw = random.Random(0)
    blocks = """20-7f 20-7f 9-d 30-39 a0-24f 370-6ff 900-dff 2000-2bff 3000-9fff ac00-d7a3 e000-fffd 1f300-1faff
        10000-10ffff"""
    ranges = [[int(end, 16) for end in block.split("-")] for block in blocks.split()]
    return ["".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40))) for _ in range(count)]
