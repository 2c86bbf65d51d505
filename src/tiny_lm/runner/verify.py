"""Compares documents and shards with their own metadata, every byte of them.

The metadata comes from the same shared storage as the files, so it is not trusted either: sizes are compared first.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.documents import REMEDY as CORPUS_REMEDY
from tiny_lm.documents import TextCounts, count_documents, read_documents, read_metadata
from tiny_lm.io.files import sha256
from tiny_lm.shards.format import LENGTHS, REMEDY, SPLITS, Shard, ShardsMetadata
from tiny_lm.shards.stream import TokenStream

CHUNK = 8 << 20  # bytes


def verify_corpus(folder: Path) -> None:
    """Raises ValueError with the first file of documents that differs from the metadata."""
    for split in read_metadata(folder / "metadata.json")["splits"].values():
        for facts in split["files"]:
            path = folder / facts["file"]
            if not path.is_file():
                raise ValueError(f"{path}: no such file; {CORPUS_REMEDY}")
            if sha256(path) != facts["file_sha256"]:  # first: a damaged footer can crash the library
                raise ValueError(f"{path}: checksum mismatch with metadata.json; {CORPUS_REMEDY}")
            if (count := count_documents(path)) != facts["documents"]:
                raise ValueError(
                    f"{path}: {count} documents, but metadata.json has {facts['documents']}; {CORPUS_REMEDY}"
                )


def verify_texts(folder: Path) -> None:
    """Raises ValueError if counts or hash of the texts differ from the metadata. Only a bug or an attacker can cause
    that in files with the right checksums, so stages do not call it.
    """
    for split in read_metadata(folder / "metadata.json")["splits"].values():
        for facts in split["files"]:
            path, counts = folder / facts["file"], TextCounts()
            for text in read_documents(path):
                counts.add(text.encode(), len(text))
            found = {key: getattr(counts, key) for key in ("documents", "characters", "bytes")}
            for key, value in (found | {"sha256": counts.sha256()}).items():
                if value != facts[key]:
                    raise ValueError(f"{path}: {key} = {value}, but metadata.json has {facts[key]}; {CORPUS_REMEDY}")


def verify_shards(folder: Path) -> ShardsMetadata:
    """Returns the metadata. Raises ValueError with the first file that differs from it."""
    for name in SPLITS:
        stream, path = TokenStream(folder, name), folder / name / "lengths.bin"
        split, metadata = stream.split, stream.metadata
        if hashlib.sha256(stream.lengths.reshape(-1).data).hexdigest() != split.lengths_sha256:
            raise ValueError(f"{path}: checksum mismatch with metadata.json; {REMEDY}")
        sums = stream.lengths.sum(axis=0, dtype=np.int64).tolist()
        if sums != [split.tokens, split.characters, split.bytes]:
            raise ValueError(f"{path}: sums {sums} do not match the {', '.join(LENGTHS)} in metadata.json; {REMEDY}")
        for claimed, column in zip((split.document_tokens, split.document_characters), stream.lengths.T, strict=False):
            if (claimed.min, claimed.max) != (column.min(), column.max()):
                raise ValueError(f"{path}: {column.min()} to {column.max()}, but metadata.json has {claimed}; {REMEDY}")
        for index, shard in enumerate(split.shards):
            _verify_shard(folder / shard.file, shard, stream.shard(index), metadata)
        begin, step = 0, CHUNK >> 5
        for first in range(0, split.documents, step):  # in chunks, so that memory does not grow with the split
            begin = int(stream.document_starts(first + step, first, begin)[-1])
    return metadata


def _verify_shard(path: Path, shard: Shard, tokens: NDArray[Any], metadata: ShardsMetadata) -> None:
    digest, begins, ends, step = hashlib.sha256(), 0, 0, max(1, CHUNK // tokens.itemsize)
    for start in range(0, len(tokens), step):
        chunk = tokens[start : start + step]
        digest.update(chunk.data)
        if int(chunk.max()) >= metadata.vocab_size:
            raise ValueError(f"{path}: token {chunk.max()}, must be below {metadata.vocab_size}; {REMEDY}")
        begins += int(np.count_nonzero(chunk == metadata.bos_id))
        ends += int(np.count_nonzero(chunk == metadata.eos_id))
    if digest.hexdigest() != shard.sha256:
        raise ValueError(f"{path}: checksum mismatch with metadata.json; {REMEDY}")
    if begins != shard.documents or abs(begins - ends) > 1:
        raise ValueError(f"{path}: {begins} <bos> and {ends} <eos>, must be {shard.documents}; {REMEDY}")
