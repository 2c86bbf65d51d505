"""Show the results of the last run, and what to try next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_lm.compare.revisions import Revision
from tiny_lm.io.files import read_json
from tiny_lm.runner.git import limits_of_experiments
from tiny_lm.terminal import Parser

MAX_JSON = 64 << 20  # bytes


def main(argv: list[str]) -> None:
    Parser("summary", __doc__, "").parse_args(argv)
    try:
        _print()
        for limit in limits_of_experiments():
            print(f"\nNote: `dvc exp run --temp` and the queue do not work here: {limit}")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"the results are not in the format that the stages write ({error!r:.80}); `tiny-lm check` shows which file"
        ) from None


def _print() -> None:
    outdated = Revision("workspace").stages().outdated() if Path("dvc.lock").exists() else {}
    export = _export(outdated=outdated.pop("export", None) is not None)
    for reason in outdated.values():
        raise ValueError(f"{reason}; run `dvc repro`")
    corpus, shards = _read("data/corpus/metadata.json"), _read("data/shards/metadata.json")
    checkpoint, scores = _read("models/checkpoint/config.json"), _read("results/evaluate/metrics.json")
    model = checkpoint["model"]
    first_sample = Path("results/evaluate/samples.txt").read_text(encoding="utf-8").split("\n=== ")[0]
    lines = first_sample.split("\n")[1:]  # without the heading
    sample = "\n".join(f"  {line}" for line in lines if line.strip())
    print(
        f"corpus   {shards['train']['documents']:,} documents to train on, {shards['val']['documents']:,} to validate "
        f"on ({corpus['source']['source']})\n"
        f"tokens   {shards['train']['tokens']:,} with a vocabulary of {shards['vocab_size']:,}\n"
        f"model    {model['architecture']}, {model['n_layers']} layers, d_model {model['d_model']}, "
        f"{checkpoint['tokens_seen']:,} tokens seen: models/checkpoint\n"
        f"export   {export}\n"
        f"scores   loss {scores['loss']:.3f}, perplexity {scores['perplexity']:.2f}, "
        f"{scores['bits_per_byte']:.3f} bits per byte\n{_exam(scores)}"
        f"\nA sample (more in results/evaluate/samples.txt):\n\n{sample}\n\n"
        "Next:\n"
        "  tiny-lm generate --prompt 'One day, Lily'    continue a text\n"
        "  tiny-lm report                               curves, samples and lineage in one HTML file\n"
        "  dvc exp run -S model.n_kv_heads=2            train a variant; only what it changes is rebuilt\n"
        "  make experiments                             compare the runs\n"
        "  tiny-lm preset dataset=local dataset.path=FILE dataset.validation=tail    then `dvc repro`: your own text"
    )


def _export(outdated: bool) -> str:
    size = sum(path.stat().st_size for path in Path("models/export").rglob("*") if path.is_file())
    if outdated or not size:
        return f"{'of an earlier run' if size else 'missing'}: run `dvc repro`"
    return f"{size / 1e6:.1f} MB, opens with transformers: models/export"


def _exam(scores: dict[str, Any]) -> str:
    """A line on what the model knows, for text whose facts are known (the built-in stories)."""
    if "exam" not in scores:
        return ""
    exam = scores["exam"]
    return (
        f"exam     {exam['accuracy']:.1%} of {exam['questions']:,} questions about the stories right, "
        f"{exam['chance']:.1%} by chance\n"
    )


def _read(path: str) -> dict[str, Any]:
    return read_json(
        Path(path), MAX_JSON, "`dvc repro` builds it, `dvc pull` fetches it, `tiny-lm restore` restores it"
    )
