"""Export: write the trained model as a folder that transformers opens, and verify that it gives the same results."""

from dataclasses import asdict
from pathlib import Path

from tiny_lm.documents import read_metadata
from tiny_lm.export.card import model_card, read_metrics
from tiny_lm.export.params import ExportParams
from tiny_lm.export.write import write_export
from tiny_lm.io.params import read_yaml
from tiny_lm.model.checkpoint import REMEDY, load_checkpoint
from tiny_lm.runner.stage import Stage
from tiny_lm.tokenizer.encode import Tokenizer


def main(stage: Stage) -> None:
    params = stage.section("export", ExportParams)
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    model, info = load_checkpoint(Path("models/checkpoint"), tokenizer.digest, tokenizer.vocab_size)
    metrics = read_metrics(Path("results/evaluate/metrics.json"))
    corpus = read_metadata(Path("data/corpus/metadata.json"))
    path = Path("models/checkpoint/params.yaml")
    training = read_yaml(path).get("train")
    if not isinstance(training, dict):
        raise ValueError(f"{path}: the section train is missing; {REMEDY}")
    card = model_card(
        architecture=model.params.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=corpus,
        params={"model": asdict(model.params), "train": training, "export": asdict(params)},
        step=info.step,
        tokens_seen=info.tokens_seen,
        metrics=metrics,
        provenance={
            **{f"corpus, {split}": counts["sha256"] for split, counts in corpus["splits"].items()},
            **info.provenance,
            "checkpoint": info.weights_sha256,
        },
    )
    folder = Path("models/export")
    write_export(folder, model, tokenizer, dtype=params.dtype, card=card)
    size = sum(path.stat().st_size for path in folder.iterdir())
    stage.say(f"{size / 1e6:.1f} MB in {params.dtype}; transformers returns the same logits and token ids")
