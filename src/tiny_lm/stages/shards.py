"""Shards: encodes both splits into flat files of token ids, which training memory-maps."""

import shutil
from pathlib import Path

from tqdm import tqdm

from tiny_lm.documents import read_metadata, read_split
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.encoding.parts import PARTS, write_shards_in_parts
from tiny_lm.runner.stage import Stage
from tiny_lm.shards.format import SPLITS
from tiny_lm.tokenizer.encode import Tokenizer

CORPUS, TOKENIZER, FOLDER = Path("data/corpus"), Path("models/tokenizer"), Path("data/shards")
LITTLE_TEXT = 2**25  # bytes: threads encode as much in the time that processes take to start


def main(stage: Stage) -> None:
    params = stage.section("shards", ShardsParams)
    tokenizer = Tokenizer.load(TOKENIZER)
    splits = read_metadata(CORPUS / "metadata.json")["splits"]
    for name, split in splits.items():
        params.check_split(name, split["documents"], split["bytes"])
    shutil.rmtree(FOLDER / PARTS, ignore_errors=True)  # of a run that was killed
    if sum(split["bytes"] for split in splits.values()) <= LITTLE_TEXT:
        metadata = write_shards(
            FOLDER,
            {split: read_split(CORPUS / split) for split in SPLITS},
            tokenizer.encode_documents,
            params,
            vocab_size=tokenizer.vocab_size,
            special_ids=tokenizer.special_ids,
            tokenizer=tokenizer.digest,
            workers=stage.runtime.workers,
            progress=stage.runtime.progress,
        )
    else:
        total = sum(split["documents"] for split in splits.values())
        bar = tqdm(desc="shards", total=total, unit=" documents", disable=not stage.runtime.progress)
        with bar, stage.executor() as executor:
            metadata = write_shards_in_parts(executor, FOLDER, CORPUS, TOKENIZER, params, bar)
    stage.say(
        f"{metadata.train.tokens:,} tokens of {metadata.train.documents:,} documents to train on, "
        f"{metadata.val.tokens:,} of {metadata.val.documents:,} to validate on, as {metadata.dtype}"
    )
