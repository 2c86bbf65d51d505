"""Shards: encodes both splits into flat files of token ids, which training memory-maps."""

from pathlib import Path

from tiny_lm.documents import read_metadata, read_split
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.runner.stage import Stage
from tiny_lm.shards.format import SPLITS
from tiny_lm.tokenizer.encode import Tokenizer

CORPUS = Path("data/corpus")


def main(stage: Stage) -> None:
    params = stage.section("shards", ShardsParams)
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    for name, split in read_metadata(CORPUS / "metadata.json")["splits"].items():
        params.check_split(name, split["documents"], split["bytes"])
    metadata = write_shards(
        Path("data/shards"),
        {split: read_split(CORPUS / split) for split in SPLITS},
        tokenizer.encode_documents,
        params,
        vocab_size=tokenizer.vocab_size,
        special_ids={
            "pad": tokenizer.pad_id, "eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "unk": tokenizer.unk_id
        },
        tokenizer=tokenizer.digest,
        workers=stage.runtime.workers,
        progress=stage.runtime.progress,
    )  # fmt: skip
    stage.say(
        f"{metadata.train.tokens:,} tokens of {metadata.train.documents:,} documents to train on, "
        f"{metadata.val.tokens:,} of {metadata.val.documents:,} to validate on, as {metadata.dtype}"
    )
