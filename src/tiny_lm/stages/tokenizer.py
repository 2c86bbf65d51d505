"""Tokenizer: learns a vocabulary from the training documents and measures its compression on the validation split."""

from pathlib import Path

from tiny_lm.bpe import TokenizerParams, bytes_per_token, train_tokenizer
from tiny_lm.documents import read_split
from tiny_lm.io.files import write_json
from tiny_lm.runner.stage import Stage


def main(stage: Stage) -> None:
    params = stage.section("tokenizer", TokenizerParams)
    progress = stage.runtime.progress
    tokenizer = train_tokenizer(read_split(Path("data/corpus/train")), params, progress)
    tokenizer.save(Path("models/tokenizer"))

    compression = bytes_per_token(tokenizer, read_split(Path("data/corpus/val")), progress)
    metrics = {"bytes_per_token": round(compression, 4), "vocab_size": tokenizer.vocab_size}
    results = Path("results/tokenizer")
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "metrics.json", metrics)
    stage.say(f"{tokenizer.vocab_size} tokens, {compression:.2f} bytes per token of the validation split")
