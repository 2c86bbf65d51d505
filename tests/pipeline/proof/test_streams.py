"""A gigabyte of text passes through corpus, tokenizer and shards in much less memory, and comes out the same."""

import hashlib
import json
import random
from itertools import pairwise

from tries import ALL, SHARE

from tiny_lm.shards.stream import TokenStream
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer

# MB: the first is so large that no buffer grows further, or of long lines up to 400; the text between them is more than
# the growth that is allowed.
SIZES = (400, max(600, round(1000 * SHARE))) if ALL else (25, 60)
LINE = 10 * 10**6 if ALL else 10**6  # bytes of the longest line, one in ten times as much text
ODD = ["\r\n", "naïve 🙂", "<bos><eos>", "\0", "e\u0301\u0323", "שלום", "\u2028", "12345678", " " * 300, "\ufeff"]
STAGES = ("corpus", "tokenizer", "shards")
SETTINGS = (
    "dataset=local dataset.path=data/raw/stream.jsonl dataset.validation_fraction=0.01 "
    "tokenizer.vocab_size=2048 shards.shard_tokens=20000000 runtime.workers=2"
)


def documents(size):
    """`size` bytes of texts of which none is like another: a few stories each, something odd, sometimes a long line."""
    rng = random.Random(0)
    stories = [story(1, index) for index in range(2000)]
    long = " ".join(rng.choices(stories, k=LINE // 500)).replace("\n", " ")[:LINE]
    number = until_long = 0
    while size > 0:
        if until_long <= 0:
            text, until_long = f"{number} {long}", 10 * LINE
        else:
            text = "\n".join([str(number), *rng.choices(stories, k=rng.randint(1, 6)), rng.choice(ODD)])
        number += 1
        size -= len(text.encode())
        until_long -= len(text)
        yield text


class Sum:
    """What a collection of texts is, in whatever order: how many, how long, and the sum of their hashes."""

    def __init__(self):
        self.documents = self.characters = self.bytes = self.hashes = 0

    def add(self, text):
        data = text.encode()
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(data)
        self.hashes = (self.hashes + int.from_bytes(hashlib.blake2b(data, digest_size=16).digest())) % 2**128


def write(path, megabytes):
    path.parent.mkdir(exist_ok=True)
    written = Sum()
    with path.open("w", encoding="utf-8", newline="") as file:
        for text in documents(megabytes * 10**6):
            written.add(text)
            file.write(json.dumps({"text": text}, ensure_ascii=written.documents % 2 == 0) + "\n")
    return written


def read(folder):
    """The text in the shards, decoded document by document."""
    tokenizer, found = Tokenizer.load(folder / "models/tokenizer"), Sum()
    for split in ("train", "val"):
        stream = TokenStream(folder / "data/shards", split)
        for start, end in pairwise(stream.document_starts().tolist()):
            found.add(tokenizer.decode(stream.read(start, end)[1:-1]))
    return found


def test_memory_stays_constant_and_every_text_survives(bench, book):
    bench.preset(SETTINGS)
    (bench.path / "dvc.lock").unlink()  # each stage takes what the one before it has just made
    peaks, written = {}, {}
    for megabytes in SIZES:
        written[megabytes] = write(bench.path / "data/raw/stream.jsonl", megabytes)
        for stage in STAGES:
            outcome = bench.start(stage)
            assert outcome["code"] == 0, outcome
            peaks[stage, megabytes] = outcome["peak_megabytes"]
        assert vars(read(bench.path)) == vars(written[megabytes])
        metadata = json.loads((bench.path / "data/shards/metadata.json").read_text())
        for key in ("documents", "characters", "bytes"):
            assert metadata["train"][key] + metadata["val"][key] == getattr(written[megabytes], key)
    small, large = SIZES
    growth = {stage: peaks[stage, large] - peaks[stage, small] for stage in STAGES}
    print(peaks, growth)
    assert max(growth.values()) < 32, (growth, peaks)
    told = ", ".join(f"{stage} {growth[stage]:+.0f} MB" for stage in STAGES)
    book.note(
        f"a stream of {large:,} MB, with lines of {LINE // 10**6} MB",
        f"every text identical; peak memory vs. a stream of {small} MB: {told}",
    )
