"""Writes shards in parallel: parts of the corpus are encoded to files, and each shard is put together from those that
it overlaps. Nothing passes through a single process but counts.

The bytes are those of `write_shards`, which is faster for little text, because it needs no other process.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from tiny_lm.documents import count_row_groups, list_split, read_documents
from tiny_lm.encoding.encode import ShardsParams, batches, encode_batch
from tiny_lm.encoding.writer import LengthCounts, make_metadata, write_metadata
from tiny_lm.executor import Executor
from tiny_lm.io.files import AtomicFile
from tiny_lm.shards.format import LENGTHS, SPLITS, Shard, ShardsMetadata, Split, dtype_for, shard_name
from tiny_lm.tokenizer.encode import Tokenizer

PARTS = "parts"  # the folder of encoded parts, in that of the shards
ROW_GROUPS = 2  # of the corpus in a part: up to 16 MB of text


@dataclass(frozen=True)
class Part:
    """Row groups of a file of the corpus, and the files that they are encoded to: `NAME.tokens` and `NAME.lengths`."""

    source: Path
    groups: tuple[int, int]  # first, end
    tokenizer: Path
    name: str


@dataclass(frozen=True)
class ShardTask:
    """A shard, and the (file, first token, end) of each part that it overlaps."""

    folder: Path
    file: str
    pieces: tuple[tuple[str, int, int], ...]
    tokenizer: Path


def write_shards_in_parts(
    executor: Executor, folder: Path, corpus: Path, tokenizer_folder: Path, params: ShardsParams, bar: tqdm[NoReturn]
) -> ShardsMetadata:
    """Writes the shards of the corpus into `folder`. Raises ValueError if a split is empty. `bar` counts documents."""
    tokenizer, parts = _load(tokenizer_folder), folder / PARTS
    (folder / "metadata.json").unlink(missing_ok=True)
    parts.mkdir(parents=True)
    try:
        splits: dict[str, Split] = {}
        for name in SPLITS:
            divided = _parts(corpus / name, tokenizer_folder, parts)
            splits[name] = _write_split(executor, folder, name, divided, tokenizer_folder, params, bar)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    metadata = make_metadata(tokenizer.vocab_size, tokenizer.special_ids, tokenizer.digest, splits)
    write_metadata(folder, metadata)
    return metadata


def _parts(folder: Path, tokenizer: Path, parts: Path) -> Iterator[Part]:
    """Yields the parts of a split of the corpus, in order."""
    for file, path in enumerate(list_split(folder)):
        groups = count_row_groups(path)
        for first in range(0, groups, ROW_GROUPS):
            name = parts / f"{folder.name}-{file}-{first}"
            yield Part(path, (first, min(first + ROW_GROUPS, groups)), tokenizer, str(name))


def _write_split(
    executor: Executor,
    folder: Path,
    split: str,
    parts: Iterable[Part],
    tokenizer: Path,
    params: ShardsParams,
    bar: tqdm[NoReturn],
) -> Split:
    shutil.rmtree(folder / split, ignore_errors=True)
    (folder / split).mkdir()
    counts, encoded = LengthCounts(split), list[tuple[str, int]]()
    file = AtomicFile(folder / split / "lengths.bin")
    with contextlib.ExitStack() as stack:
        stack.callback(file.discard)
        for name, tokens in executor.ordered(encode_part, parts):
            lengths = np.fromfile(f"{name}.lengths", "<u4").reshape(-1, len(LENGTHS))
            counts.add(lengths)
            file.write(lengths.data)
            encoded.append((name, tokens))
            bar.update(len(lengths))
        counts.require_documents()
        lengths_sha256 = file.commit()
    shards = list(executor.ordered(write_shard, _shards(folder, split, encoded, params.shard_tokens, tokenizer)))
    return counts.split(shards, lengths_sha256)


def encode_part(part: Part) -> tuple[str, int]:
    """Encodes a part; returns its name and the number of its tokens."""
    tokenizer, count = _load(part.tokenizer), 0
    with open(f"{part.name}.tokens", "wb") as tokens_file, open(f"{part.name}.lengths", "wb") as lengths_file:
        for batch in batches(read_documents(part.source, part.groups)):
            tokens, lengths = encode_batch(tokenizer.encode_documents, tokenizer.eos_id, batch)
            # `tofile` ignores that the disk is full when it writes the rest
            tokens_file.write(tokens.astype(dtype_for(tokenizer.vocab_size)).data)
            lengths_file.write(np.ascontiguousarray(lengths, "<u4").data)
            count += len(tokens)
    return part.name, count


def _shards(
    folder: Path, split: str, encoded: Sequence[tuple[str, int]], shard_tokens: int, tokenizer: Path
) -> Iterator[ShardTask]:
    pieces: list[tuple[str, int, int]] = []
    index, free = 0, shard_tokens
    for name, tokens in encoded:
        start = 0
        while start < tokens:
            end = min(start + free, tokens)
            pieces.append((name, start, end))
            start, free = end, free - (end - start)
            if not free:
                yield ShardTask(folder, shard_name(split, index), tuple(pieces), tokenizer)
                pieces, index, free = [], index + 1, shard_tokens
    if pieces:
        yield ShardTask(folder, shard_name(split, index), tuple(pieces), tokenizer)


def write_shard(task: ShardTask) -> Shard:
    tokenizer = _load(task.tokenizer)
    dtype, documents, count = dtype_for(tokenizer.vocab_size), 0, 0
    file = AtomicFile(task.folder / task.file)
    with contextlib.ExitStack() as stack:
        stack.callback(file.discard)
        for name, start, end in task.pieces:
            tokens = np.fromfile(f"{name}.tokens", dtype, end - start, offset=start * dtype.itemsize)
            file.write(tokens.data)
            documents += int(np.count_nonzero(tokens == tokenizer.bos_id))
            count += len(tokens)
        return Shard(file=task.file, tokens=count, documents=documents, sha256=file.commit())


@cache  # once in each process
def _load(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)
