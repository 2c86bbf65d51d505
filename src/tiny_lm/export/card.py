"""The model card: README.md of an export, which the Hugging Face Hub shows as the model's page.

It contains no date, commit or path, so the same model always has the same card.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_lm.io.files import read_json
from tiny_lm.io.params import flat

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
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=100, do_sample=True, top_p=0.95)[0]))
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
    metrics: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> str:
    """The card as Markdown. `data` is the corpus's metadata.json, `params` are sections of params.yaml, `metrics` may
    be nested, and `provenance` contains content hashes by name.
    """
    lines = [
        FRONT + _datasets(data) + "---\n",
        f"# {architecture}, {parameters / 1e6:.1f} M parameters\n",
        f"A base language model trained from scratch with tiny-lm: {step:,} steps, {tokens_seen:,} tokens.\n",
        USE,
    ]
    lines += _table("Results on the validation documents", "metric", dict(flat(metrics)))
    lines += _table("Data", "key", _facts(data))
    for section, values in params.items():
        lines += _table(f"Params: {section}", "key", values)
    lines += _table("Provenance", "made from", {name: f"`{digest}`" for name, digest in provenance.items()})
    return "\n".join(lines)


def _datasets(data: Mapping[str, Any]) -> str:
    """The line by which the Hub links a model to its data set."""
    source = data["source"]
    return f"datasets:\n- {json.dumps(source['name'])}\n" if source["source"] == "huggingface" else ""


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The source of the documents and their number. Local files are counted, not named: names may be private."""
    facts = dict(data["source"])
    if "files" in facts:
        facts["files"] = facts["files"]["number"] if isinstance(facts["files"], dict) else len(facts["files"])
    for split, counts in data["splits"].items():
        facts |= {f"{split} {key}": f"{counts[key]:,}" for key in ("documents", "bytes")}
    return facts


def read_metrics(path: Path) -> dict[str, Any]:
    """The metrics of the evaluation: finite numbers by name, maybe nested. ValueError, in one line, for the rest."""
    remedy = "`tiny-lm restore evaluate` restores it, `dvc repro evaluate` builds it again"
    values = read_json(path, MAX_METRICS, remedy)
    try:
        numbers = dict(flat(values))
    except RecursionError:
        raise ValueError(f"{path}: its objects are nested too deeply; {remedy}") from None
    for name, value in numbers.items():
        if type(value) not in (int, float) or not abs(value) < 1 << 62:
            raise ValueError(f"{path}: {name[:80]!r} = {str(value)[:80]!r}: must be a finite number; {remedy}")
    loss, perplexity = numbers.get("loss"), numbers.get("perplexity")
    if (
        loss is not None
        and perplexity is not None
        and not math.isclose(math.log(max(perplexity, 1e-300)), min(loss, 700.0), abs_tol=1e-6)
    ):
        raise ValueError(f"{path}: perplexity = {perplexity}: must be that of loss = {loss}; {remedy}")
    return values


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
    if value is None or isinstance(value, bool):
        text = json.dumps(value)  # as in YAML
    else:
        text = f"{value:.8g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
