"""The shard format: flat token files that any reader can memory-map, and their metadata.

    metadata.json         vocabulary, dtype, special ids, counts, lengths, checksums
    train/00000.bin …     tokens, little-endian uint16 while every id fits, else uint32, with no header
    train/lengths.bin     three little-endian uint32 for each document: tokens, characters, UTF-8 bytes
    val/…                 the same

The files of a split form one stream, `<bos> document <eos> <bos> document <eos> …`, cut whenever a file is full, so a
document can begin in one file and end in the next. nanoGPT's `np.memmap(path, dtype=np.uint16)` opens such a file.
Metadata comes from shared storage, so all of it is validated before any file that it names is opened.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiny_lm.io.files import read_json
from tiny_lm.io.metadata import build, check_sha256
from tiny_lm.io.params import check

FORMAT = 1
SPLITS = ("train", "val")
LENGTHS = ("tokens", "characters", "bytes")  # columns of lengths.bin; tokens with <bos> and <eos>
REMEDY = "run `tiny-lm restore shards`, `dvc pull` or `dvc repro shards`"
_MAX_METADATA = 64 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Lengths:  # of the documents of a split
    min: int
    mean: float
    max: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    file: str  # relative to the folder of metadata.json
    tokens: int
    documents: int  # that begin in it
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Split:
    tokens: int  # with <bos> and <eos>
    documents: int
    characters: int
    bytes: int  # of UTF-8
    document_tokens: Lengths  # with <bos> and <eos>
    document_characters: Lengths
    lengths_sha256: str  # of lengths.bin
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class ShardsMetadata:
    format: int
    dtype: str
    vocab_size: int
    pad_id: int
    eos_id: int
    bos_id: int
    unk_id: int
    tokenizer: str  # digest
    train: Split
    val: Split


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The dtype of stored ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def read_metadata(folder: Path) -> ShardsMetadata:
    """The metadata of the shards in `folder`. Raises ValueError, in one line, if it is invalid."""
    path = folder / "metadata.json"
    values = read_json(path, _MAX_METADATA, REMEDY)
    try:
        metadata: ShardsMetadata = build(ShardsMetadata, values)
        _check(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    return metadata


def _check(m: ShardsMetadata) -> None:
    """Raises ValueError if values contradict each other."""
    check(m.format == FORMAT, "format", m.format, f"{FORMAT}, the only format of this version")
    check(1 <= m.vocab_size <= 1 << 32, "vocab_size", m.vocab_size, "between 1 and 2^32")
    dtype = dtype_for(m.vocab_size).name
    check(m.dtype == dtype, "dtype", m.dtype, f"{dtype} for a vocabulary of {m.vocab_size}")
    ids = (m.pad_id, m.eos_id, m.bos_id, m.unk_id)
    check(len(set(ids)) == 4 and max(ids) < m.vocab_size, "special ids", ids, f"four ids below {m.vocab_size}")
    check_sha256("tokenizer", m.tokenizer)
    for name in SPLITS:
        _check_split(name, getattr(m, name))


def _check_split(name: str, s: Split) -> None:
    check(s.documents >= 1, f"{name}.documents", s.documents, "at least 1")
    check(s.tokens >= 2 * s.documents, f"{name}.tokens", s.tokens, "at least 2 for each document")
    valid = s.characters <= s.bytes <= 4 * s.characters
    check(valid, f"{name}.bytes", s.bytes, f"1 to 4 for each of {s.characters} characters")
    limit = f"at most one for each of {s.bytes} bytes, and two for each document"
    check(s.tokens - 2 * s.documents <= s.bytes, f"{name}.tokens", s.tokens, limit)
    for key in ("tokens", "characters"):
        lengths, mean = getattr(s, f"document_{key}"), mean_length(getattr(s, key), s.documents)
        valid = lengths.min <= math.ceil(mean) and math.floor(mean) <= lengths.max and lengths.mean == mean
        check(valid, f"{name}.document_{key}", asdict(lengths), f"around the mean {mean}")
    check_sha256(f"{name}.lengths_sha256", s.lengths_sha256)
    for i, shard in enumerate(s.shards):
        key = f"{name}.shards[{i}]"
        check(shard.file == shard_name(name, i), f"{key}.file", shard.file[:80], shard_name(name, i))
        check_sha256(f"{key}.sha256", shard.sha256)
        check(shard.tokens >= 1, f"{key}.tokens", shard.tokens, "at least 1")
        check(shard.documents <= shard.tokens, f"{key}.documents", shard.documents, f"at most {shard.tokens}")
    for key in ("tokens", "documents"):
        total = sum(getattr(shard, key) for shard in s.shards)
        check(total == getattr(s, key), f"{name}.{key}", getattr(s, key), f"the sum over its shards, {total}")


def shard_name(split: str, index: int) -> str:
    return f"{split}/{index:05d}.bin"


def mean_length(total: int, documents: int) -> float:
    return round(total / documents, 3)
