"""Writes a Hugging Face model folder, and verifies it before it gets its name.

transformers opens the folder from disk, running no code but its own, and must return our logits and token ids.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from pathlib import Path

import torch

from tiny_lm.export.from_hf import load_export
from tiny_lm.export.huggingface import DTYPES, export_files
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.io.files import AtomicFile
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer

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


def write_export(folder: Path, model: Transformer, tokenizer: Tokenizer, *, dtype: str, card: str) -> None:
    """Writes `folder` from a float32 `model` on the CPU, or raises ValueError and leaves nothing.

    `card` is the text of README.md.
    """
    ARCHITECTURES[model.params.architecture].check_exportable(model.params)
    draft = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        files = export_files(model, tokenizer, dtype)
        for name, content in {**files, "README.md": card.encode()}.items():
            with AtomicFile(draft / name) as file:
                file.write(content)
        verify_export(draft, model, tokenizer, dtype)
        assert export_files(*load_export(draft), dtype) == files, "load_export does not open the model that was written"
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def verify_export(folder: Path, model: Transformer, tokenizer: Tokenizer, dtype: str) -> None:
    """ValueError unless transformers returns our token ids and logits from `folder`."""
    import transformers  # takes a second

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sequences = _verify_token_ids(folder, tokenizer)
    text = [token for ids in sequences for token in (tokenizer.bos_id, *ids, tokenizer.eos_id)]
    context_length, generator = model.params.context_length, torch.Generator().manual_seed(0)
    noise = torch.randint(0, tokenizer.vocab_size, (context_length,), generator=generator)  # up to the last position
    _verify_logits(folder, model, dtype, [torch.tensor(text[:context_length]), noise])


def _verify_token_ids(folder: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of many texts, which transformers must encode and decode like us."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    special = (theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id, theirs.unk_token_id)
    if special != (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id):
        raise ValueError(f"the exported tokenizer has other special ids than ours: {special}")
    sequences = []
    for text in (*TEXTS, *random_texts(500)):
        ids: list[int] = tokenizer.encode(text).tolist()
        found = theirs(text)["input_ids"]
        if found != ids or theirs.decode(ids) != text:
            raise ValueError(f"the exported tokenizer encodes {text[:60]!r} as {found[:20]}, ours as {ids[:20]}")
        sequences.append(ids)
    return sequences


def _verify_logits(folder: Path, model: Transformer, dtype: str, sequences: list[torch.Tensor]) -> None:
    import transformers

    exported = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    ours = copy.deepcopy(model).eval()
    for parameter in ours.parameters():  # rounded like the file; not RoPE's tables, which are in no file
        parameter.data = parameter.data.to(DTYPES[dtype]).float()
    for tokens in sequences:
        with torch.inference_mode():
            expected, found = ours(tokens[None]), exported(tokens[None]).logits
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
