"""Export: writes the trained model as a folder that transformers opens, and checks that it gives the same results."""

import json
from dataclasses import asdict
from pathlib import Path

from tiny_lm.checkpoint.reader import load_checkpoint
from tiny_lm.export.card import model_card
from tiny_lm.export.huggingface import ExportParams, check_exportable, write_export
from tiny_lm.guard import Stage
from tiny_lm.params import read_yaml
from tiny_lm.tokenizer.bpe import PATTERNS, Tokenizer


def main(stage: Stage) -> None:
    params = stage.section("export", ExportParams)
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    model, info = load_checkpoint(Path("models/checkpoint"), tokenizer.digest)
    check_exportable(model.params)
    corpus = json.loads(Path("data/corpus/metadata.json").read_bytes())
    training = read_yaml(Path("models/checkpoint/params.yaml"))["train"]
    card = model_card(
        architecture=model.params.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=corpus,
        params={"model": asdict(model.params), "train": training, "export": asdict(params)},
        step=info.step,
        tokens_seen=info.tokens_seen,
        metrics=json.loads(Path("results/evaluate/metrics.json").read_bytes()),
        provenance={
            **{f"corpus, {split}": counts["sha256"] for split, counts in corpus["splits"].items()},
            **info.provenance,
            "checkpoint": info.weights_sha256,
        },
    )
    folder = Path("models/export")
    write_export(folder, model, tokenizer, split_pattern=PATTERNS[tokenizer.pattern], dtype=params.dtype, card=card)
    size = sum(path.stat().st_size for path in folder.iterdir())
    stage.say(f"{size / 1e6:.1f} MB in {params.dtype}; transformers has the same logits and token ids")
