"""`tiny-lm summary` of a small run: real data and weights, made-up scores."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from corpora import write_corpus
from tiny import LLAMA3

from tiny_lm.io.files import write_json
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.tools.summary import main

SCORES = {"loss": 1.25, "perplexity": 3.4903, "bits_per_byte": 0.5}


@pytest.fixture(autouse=True)
def run(project, tokenizer):
    subprocess.run(["git", "init", "-q", "."], check=True)
    write_corpus(Path("data/corpus"), ["one", "two"], ["three"], {"source": "local"})
    torch.manual_seed(0)
    save_checkpoint(
        Path("models/checkpoint"), build_model(LLAMA3, 300), tokenizer_digest=tokenizer.digest, step=10,
        tokens_seen=1280, provenance={},
    )  # fmt: skip
    Path("models/export").mkdir()
    Path("models/export/model.safetensors").write_bytes(bytes(340_000))
    Path("results/evaluate").mkdir(parents=True)
    write_json(Path("results/evaluate/metrics.json"), SCORES)
    Path("results/evaluate/samples.txt").write_text(
        "=== prompt: ''\nTom has a cat.\n\nThe end.\n\n=== prompt: 'Ann'\nAnn ran.\n"
    )


def lock(**changes):
    """Writes a dvc.lock in which evaluate and export read what the stages before them wrote, except for `changes`."""
    read = {"models/checkpoint": "1" * 32, "results/evaluate/metrics.json": "2" * 32}
    stages = {
        "train": {"cmd": "", "outs": [{"path": "models/checkpoint", "md5": "1" * 32}]},
        "evaluate": {"cmd": "", "outs": [{"path": "results/evaluate/metrics.json", "md5": "2" * 32}]},
        "export": {"cmd": ""},
    }
    for name, paths in (("evaluate", ["models/checkpoint"]), ("export", list(read))):
        deps = [{"path": path, "md5": changes.get(name, read[path])} for path in paths]
        stages[name]["deps"] = deps
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))


def test_a_run_on_one_screen(call):
    lock()
    assert call(main).splitlines()[:14] == [
        "corpus   170 documents to train on, 6 to validate on (local)",
        "tokens   2,940 with a vocabulary of 300",
        "model    llama3, 2 layers, d_model 16, 1,280 tokens seen: models/checkpoint",
        "export   0.3 MB, opens with transformers: models/export",
        "scores   loss 1.250, perplexity 3.49, 0.500 bits per byte",
        "",
        "A sample (more in results/evaluate/samples.txt):",
        "",
        "  Tom has a cat.",
        "  The end.",
        "",
        "Next:",
        "  tiny-lm generate --prompt 'One day, Lily'    continue a text",
        "  tiny-lm report                               curves, samples and lineage in one HTML file",
    ]


def test_the_exam_has_a_line_if_there_is_one(call):
    exam = {"accuracy": 0.912, "chance": 0.31, "questions": 3021}
    write_json(Path("results/evaluate/metrics.json"), SCORES | {"exam": exam})
    assert call(main).splitlines()[5] == "exam     91.2% of 3,021 questions about the stories right, 31.0% by chance"


def test_a_missing_export_and_one_of_an_earlier_run_have_a_remedy(call):
    lock(export="0" * 32)
    assert "export   of an earlier run: run `dvc repro`" in call(main).splitlines()
    lock()
    Path("models/export/model.safetensors").unlink()
    assert "export   missing: run `dvc repro`" in call(main).splitlines()


def test_scores_of_an_earlier_model_are_refused(call):
    lock(evaluate="0" * 32)
    with pytest.raises(ValueError, match=r"^evaluate has not run since models/checkpoint changed; run `dvc repro`$"):
        call(main)


def test_a_shallow_clone_gets_a_note(call):
    assert "Note" not in call(main)
    Path(".git/shallow").touch()
    assert call(main).endswith(
        "\nNote: `dvc exp run --temp` and the queue do not work here: this is a shallow clone: run `git fetch "
        "--unshallow`\n"
    )
