"""Writes a corpus of few documents, and reads one."""

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
