"""The model card: README.md of an export, which the Hugging Face Hub shows as the model's page.

It contains no date, commit or path, so the same model always has the same card.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_lm.io.files import read_json
from tiny_lm.io.params import flat, show

MAX_METRICS = 2**20  # bytes

FRONT = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- tiny-lm
"""
USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_REPOSITORY")
tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_REPOSITORY")
prompt = tokenizer(tokenizer.bos_token + "Once upon a time", split_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, do_sample=True, top_p=0.95)[0]))
```

Every training document began with `<bos>` and ended with `<eos>`. The tokenizer adds neither, and reads special tokens
in a text as plain text unless you pass `split_special_tokens=False`. In lm-evaluation-harness, leave `add_bos_token`
off: it prepends `<bos>` by itself to a text without context.
"""


def model_card(
    *,
    architecture: str,
    parameters: int,
    data: Mapping[str, Any],
    params: Mapping[str, Mapping[str, Any]],
    step: int,
    tokens_seen: int,
    metrics: Mapping[str, float],
    provenance: Mapping[str, str],
) -> str:
    """The card as Markdown. `data` is the corpus's metadata.json, `params` contains sections of params.yaml, and
    `provenance` content hashes by name.
    """
    lines = [
        FRONT + _datasets(data) + "---\n",
        f"# {architecture}, {parameters / 1e6:.1f} M parameters\n",
        f"A base language model trained from scratch with tiny-lm: {step:,} steps, {tokens_seen:,} tokens.\n",
        USE,
    ]
    lines += _table("Results on the validation documents", "metric", metrics)
    lines += _table("Data", "key", _facts(data))
    for section, values in params.items():
        lines += _table(f"Params: {section}", "key", values)
    lines += _table("Provenance", "made from", {name: f"`{digest}`" for name, digest in provenance.items()})
    return "\n".join(lines)


def _datasets(data: Mapping[str, Any]) -> str:
    """Front matter by which the Hub links a model to its datasets."""
    source = data["source"]
    names = [each["name"] for each in source.get("sources", [source]) if each["source"] == "huggingface"]
    return "datasets:\n" + "".join(f"- {json.dumps(name)}\n" for name in dict.fromkeys(names)) if names else ""


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sources of the documents and their number. Local files are counted, not named: names may be private."""
    facts = {key: value for key, value in data["source"].items() if key != "validation_order"}
    for number, source in enumerate(facts.pop("sources", ())):
        facts |= {f"sources.{number}.{key}": value for key, value in flat(_without_names(source))}
    facts = _without_names(facts)
    for split, counts in data["splits"].items():
        facts |= {f"{split} {key}": f"{counts[key]:,}" for key in ("documents", "bytes")}
    return facts


def _without_names(source: Mapping[str, Any]) -> dict[str, Any]:
    facts = dict(source)
    if "files" in facts:
        facts["files"] = facts["files"]["number"] if isinstance(facts["files"], dict) else len(facts["files"])
    return facts


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics of the evaluation by name. ValueError, in one line, unless they are finite and consistent."""
    remedy = "`tiny-lm restore evaluate` restores it, `dvc repro evaluate` builds it again"
    metrics = dict(flat(read_json(path, MAX_METRICS, remedy)))  # exam: {accuracy: 0.9} -> exam.accuracy: 0.9
    for name, value in metrics.items():
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{path}: {name[:80]!r} = {show(value)[:80]}: must be a finite number; {remedy}")
    if {"loss", "perplexity"} <= metrics.keys():
        loss, perplexity = metrics["loss"], metrics["perplexity"]
        if not math.isclose(perplexity, math.exp(min(loss, 700.0)), rel_tol=1e-6):
            raise ValueError(f"{path}: perplexity = {perplexity}: must be that of loss = {loss}; {remedy}")
    return metrics


def _table(title: str, first: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    cells = (f"| {key} | {_cell(value)} |" for key, value in rows.items())
    return [f"## {title}\n", f"| {first} | value |", "|---|---|", *cells, ""]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.8g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value)  # null and true, as in YAML
    return " ".join(text.replace("|", "\\|").split())
