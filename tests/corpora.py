"""Writes a corpus of few documents, reads one, and says what a corpus should contain."""

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tiny_lm.documents import DocumentWriter, SplitMetadata, file_name, read_split
from tiny_lm.io.files import write_json


def write_split(folder, split, texts):
    """Writes a split in one file; returns its entry in metadata.json."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    with DocumentWriter(folder / file_name(split, 0)) as writer:
        for text in texts:
            writer.write(text)
    return asdict(SplitMetadata.of([writer.metadata(file_name(split, 0))]))


def write_corpus(folder, train, val, source=None):
    splits = {split: write_split(folder, split, texts) for split, texts in (("train", train), ("val", val))}
    write_json(folder / "metadata.json", {"source": source or {}, "splits": splits})


def read_corpus(folder=Path("data/corpus")):
    """The texts of both splits."""
    return [list(read_split(folder / split)) for split in ("train", "val")]


def texts_of(parts):
    """The documents of the parts of a source."""
    return [text for part in parts for text in part.read()]


def references(sources):
    """What is kept of sources, each (train, val, params): the same in one pass over streams, with a set of all texts.

    Returns (texts by split, counts) of each source.
    """
    seen = set()
    return [finish() for finish in [_read(*source, seen) for source in sources]]


def _read(train, val, p, seen):
    counts = Counter()

    def reason(text):
        if not text.strip():
            return "blank"
        if len(text) < p.min_chars:
            return "too_short"
        if p.max_chars is not None and len(text) > p.max_chars:
            return "too_long"
        if p.deduplicate and text in seen:
            return "duplicate"
        seen.add(text)
        return None

    def kept(documents):
        for text in documents:
            counts["read"] += 1
            if why := reason(text):
                counts[why] += 1
            else:
                yield text

    def choose(text):
        digest = hashlib.blake2b(f"{p.seed}\n{text}".encode(), digest_size=8).digest()
        return "val" if int.from_bytes(digest, "little") < int(p.validation_fraction * 2**64) else "train"

    def tail(texts):
        cut = int(sum(map(len, texts)) * (1 - p.validation_fraction))
        for text in texts:
            if 0 < cut < len(text):
                for split, part in (("train", text[:cut]), ("val", text[cut:])):
                    if why := reason(part):
                        counts[why] += 1
                    else:
                        yield split, part
            else:
                yield "train" if cut > 0 else "val", text
            cut -= len(text)

    limits = {"train": p.max_train_documents, "val": p.max_val_documents}
    result = {"train": [], "val": []}

    def fill(pairs, splits):
        for split, text in pairs:
            if len(result[split]) == limits[split]:
                counts["over_limit"] += 1
            else:
                result[split].append(text)
                if splits and all(len(result[split]) == limits[split] for split in splits):
                    counts["stopped_early"] = True
                    return

    if p.validation == "source":
        fill((("train", text) for text in kept(train)), ["train"])
        fill((("val", text) for text in kept(val)), ["val"])
    elif p.validation == "random":
        fill(((choose(text), text) for text in kept(train)), ["train", "val"])
    whole = list(kept(train)) if p.validation == "tail" else []

    def finish():
        if whole:
            fill(tail(whole), [])  # the parts of documents are compared with all documents of all sources
        return result, counts

    return finish
