"""The model card: README.md of an export, a page that the Hugging Face Hub shows.

It holds what the files themselves say and no date, commit or path, so that the same model has the same card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FRONT = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- tiny-lm
---
"""
USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_REPOSITORY")
tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_REPOSITORY")
prompt = tokenizer(tokenizer.bos_token + "Once upon a time", split_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=100, do_sample=True, top_p=0.95)[0]))
```

Each document of the training text began with `<bos>` and ended with `<eos>`. The tokenizer adds neither, and reads
special tokens that are spelt out in a text as text unless `split_special_tokens=False` says otherwise. In
lm-evaluation-harness leave `add_bos_token` off.
"""


def model_card(
    *,
    architecture: str,
    parameters: int,
    params: Mapping[str, Mapping[str, Any]],
    step: int,
    tokens_seen: int,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> str:
    """Markdown. `params` are sections of params.yaml, `metrics` may be nested, `provenance` are hashes by name."""
    lines = [
        FRONT,
        f"# {architecture}, {parameters / 1e6:.1f} M parameters\n",
        f"A base language model trained from scratch with tiny-lm: {step:,} steps, {tokens_seen:,} tokens.\n",
        USE,
    ]
    lines += _table("Results on the validation documents", "metric", dict(_flat(metrics)))
    for section, values in params.items():
        lines += _table(f"Params: {section}", "key", values)
    lines += _table("Provenance", "made from", {name: f"`{digest}`" for name, digest in provenance.items()})
    return "\n".join(lines)


def _table(title: str, first: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [
        f"## {title}\n",
        f"| {first} | value |",
        "|---|---|",
        *(f"| {k} | {_cell(v)} |" for k, v in rows.items()),
        "",
    ]


def _cell(value: Any) -> str:
    text = "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _flat(values: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}{name}.")
        else:
            yield f"{key}{name}", value
