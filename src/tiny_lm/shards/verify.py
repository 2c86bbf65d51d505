"""Checks shards against their metadata, byte by byte; by way of `tiny-lm check` before a stage reads any."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.shards.format import LENGTHS, REMEDY, SPLITS, Shard, ShardsMetadata
from tiny_lm.shards.stream import TokenStream

_CHUNK = 4 << 20  # tokens that are read at a time


def verify_shards(folder: Path) -> ShardsMetadata:
    """Reads every file of the shards and compares it with the metadata. ValueError names the first that differs."""
    for name in SPLITS:
        stream, path = TokenStream(folder, name), folder / name / "lengths.bin"
        split, metadata = stream.split, stream.metadata
        if hashlib.sha256(stream.lengths.reshape(-1).data).hexdigest() != split.lengths_sha256:
            raise ValueError(f"{path}: its checksum is not the one in metadata.json; {REMEDY}")
        sums = stream.lengths.sum(axis=0, dtype=np.int64).tolist()
        if sums != [split.tokens, split.characters, split.bytes]:
            raise ValueError(f"{path}: its sums {sums} are not the {', '.join(LENGTHS)} of metadata.json; {REMEDY}")
        for told, column in zip((split.document_tokens, split.document_characters), stream.lengths.T, strict=False):
            if (told.min, told.max) != (column.min(), column.max()):
                raise ValueError(f"{path}: {column.min()} to {column.max()}, not {told} of metadata.json; {REMEDY}")
        for shard, tokens in zip(split.shards, stream.shards, strict=True):
            _verify_shard(folder / shard.file, shard, tokens, metadata)
        begin = 0
        for first in range(0, split.documents, _CHUNK >> 4):  # in parts: memory does not grow with their number
            begin = int(stream.document_starts(first + (_CHUNK >> 4), first, begin)[-1])
    return metadata


def _verify_shard(path: Path, shard: Shard, tokens: NDArray[Any], metadata: ShardsMetadata) -> None:
    digest, begins, ends = hashlib.sha256(), 0, 0
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        digest.update(chunk.data)
        if int(chunk.max()) >= metadata.vocab_size:
            raise ValueError(f"{path}: token {chunk.max()}, must be below {metadata.vocab_size}; {REMEDY}")
        begins += int(np.count_nonzero(chunk == metadata.bos_id))
        ends += int(np.count_nonzero(chunk == metadata.eos_id))
    if digest.hexdigest() != shard.sha256:
        raise ValueError(f"{path}: its checksum is not the one in metadata.json; {REMEDY}")
    if begins != shard.documents or abs(begins - ends) > 1:
        raise ValueError(f"{path}: {begins} <bos> and {ends} <eos>, must be {shard.documents}; {REMEDY}")
