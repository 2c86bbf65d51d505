"""Writes shards as a stream: batches of documents are encoded by all cores while the files grow in order.

The batches, and with them every byte, do not depend on the number of workers; memory holds a few batches of a quarter
million characters each. Encoding is an argument: shards know nothing of the tokenizer.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tiny_lm.config import check
from tiny_lm.files import write_json
from tiny_lm.shards.format import (
    FORMAT,
    LENGTHS,
    SPLITS,
    Lengths,
    Shard,
    ShardsMetadata,
    Split,
    dtype_for,
    mean_length,
    shard_name,
)

Encode = Callable[[Sequence[str]], NDArray[np.uint32]]  # documents → `<bos> document <eos> <bos> …`; runs in threads
_BATCH_CHARACTERS = 1 << 18
_BATCH_DOCUMENTS = 1 << 12
_MAX_SHARDS = 100_000  # the names have five digits


@dataclass(frozen=True, kw_only=True)
class ShardsParams:
    shard_tokens: int = 50_000_000  # per .bin file (100 MB as uint16); appended text changes the last file only

    def __post_init__(self) -> None:
        check(1000 <= self.shard_tokens <= 2**31, "shard_tokens", self.shard_tokens, "between 1000 and 2^31")


def write_shards(
    folder: Path,
    documents: Mapping[str, Iterable[str]],
    encode: Encode,
    params: ShardsParams,
    *,
    vocab_size: int,
    special_ids: Mapping[str, int],
    tokenizer: str,
    workers: int,
    progress: bool = False,
) -> ShardsMetadata:
    """Writes the documents of `train` and `val` into `folder` in the format of `format.py`.

    `special_ids` are those of `pad`, `eos`, `bos` and `unk`; `tokenizer` is its digest. ValueError for an empty split.
    """
    assert documents.keys() == set(SPLITS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").unlink(missing_ok=True)
    splits: dict[str, Split] = {}
    for name in SPLITS:
        with SplitWriter(folder, name, vocab_size, special_ids["bos"], params.shard_tokens) as writer:
            bar = tqdm(documents[name], f"shards {name}", unit=" documents", disable=not progress)
            with ThreadPoolExecutor(workers) as pool:
                for tokens, lengths in _in_order(
                    pool, lambda b: _encode(encode, special_ids["eos"], b), _batches(bar), workers
                ):
                    writer.write(tokens, lengths)
            splits[name] = writer.finish()
    metadata = ShardsMetadata(
        format=FORMAT,
        dtype=dtype_for(vocab_size).name,
        vocab_size=vocab_size,
        pad_id=special_ids["pad"],
        eos_id=special_ids["eos"],
        bos_id=special_ids["bos"],
        unk_id=special_ids["unk"],
        tokenizer=tokenizer,
        train=splits["train"],
        val=splits["val"],
    )
    write_metadata(folder, metadata)
    return metadata


def write_metadata(folder: Path, metadata: ShardsMetadata) -> None:
    write_json(folder / "metadata.json", asdict(metadata))


class SplitWriter:
    """The files of one split, as they grow. What was there before is removed; after an error the unfinished file is."""

    def __init__(self, folder: Path, name: str, vocab_size: int, bos_id: int, shard_tokens: int) -> None:
        self.folder, self.name = folder, name
        self.vocab_size, self.bos_id, self.shard_tokens = vocab_size, bos_id, shard_tokens
        self.dtype = dtype_for(vocab_size)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.bin*"):
            old.unlink()
        self._lengths = _HashedFile(folder / name / "lengths.bin")
        self._file: _HashedFile | None = None
        self._room = 0  # tokens until the open file is full
        self._begun = 0  # documents in it
        self._shards: list[Shard] = []
        self._documents = 0
        self._sums = np.zeros(len(LENGTHS), np.int64)
        self._min = np.full(len(LENGTHS), np.iinfo(np.int64).max)
        self._max = np.zeros(len(LENGTHS), np.int64)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._lengths.discard()
        if self._file:
            self._file.discard()

    def write(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Appends whole documents: their token stream, and (documents, 3) lengths as LENGTHS names them."""
        assert len(tokens) == lengths[:, 0].sum()
        assert int(tokens.max()) < self.vocab_size
        if lengths.max() >= 1 << 32:
            raise ValueError(f"{self.name}: a document of {lengths.max()} bytes; must be under 2^32: split it up")
        self._lengths.write(lengths.astype("<u4"))
        self._documents += len(lengths)
        self._sums += lengths.sum(axis=0)
        self._min = np.minimum(self._min, lengths.min(axis=0))
        self._max = np.maximum(self._max, lengths.max(axis=0))
        tokens = tokens.astype(self.dtype, copy=False)
        while len(tokens):
            if self._file is None:
                if len(self._shards) == _MAX_SHARDS:
                    raise ValueError(
                        f"shards.shard_tokens = {self.shard_tokens}: must be larger, {_MAX_SHARDS} files are full"
                    )
                self._file = _HashedFile(self.folder / shard_name(self.name, len(self._shards)))
                self._room = self.shard_tokens
            part, tokens = tokens[: self._room], tokens[self._room :]
            self._file.write(part)
            self._begun += int(np.count_nonzero(part == self.bos_id))
            self._room -= len(part)
            if not self._room:
                self._finish_shard()

    def finish(self) -> Split:
        """Ends the last file, and describes the split."""
        if not self._documents:
            raise ValueError(f"{self.name}: has no documents; give more text, or split off a larger share of it")
        if self._file:
            self._finish_shard()
        tokens, characters, size = self._sums.tolist()
        return Split(
            tokens=tokens,
            documents=self._documents,
            characters=characters,
            bytes=size,
            document_tokens=self._stats(0),
            document_characters=self._stats(1),
            lengths_sha256=self._lengths.finish(),
            shards=tuple(self._shards),
        )

    def _finish_shard(self) -> None:
        assert self._file
        name = shard_name(self.name, len(self._shards))
        tokens = self.shard_tokens - self._room
        self._shards.append(Shard(file=name, tokens=tokens, documents=self._begun, sha256=self._file.finish()))
        self._file, self._begun = None, 0

    def _stats(self, column: int) -> Lengths:
        mean = mean_length(int(self._sums[column]), self._documents)
        return Lengths(min=int(self._min[column]), mean=mean, max=int(self._max[column]))


class _HashedFile:
    """A file under a temporary name until it is finished, and the SHA-256 of what was written."""

    def __init__(self, path: Path) -> None:
        self.path, self.draft = path, path.with_name(path.name + ".tmp")
        self.file: BinaryIO = self.draft.open("wb")
        self.digest = hashlib.sha256()

    def write(self, numbers: NDArray[Any]) -> None:
        content = np.ascontiguousarray(numbers).data
        self.file.write(content)
        self.digest.update(content)

    def finish(self) -> str:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.draft, self.path)
        return self.digest.hexdigest()

    def discard(self) -> None:
        self.file.close()
        self.draft.unlink(missing_ok=True)


def _encode(encode: Encode, eos_id: int, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The token stream of a batch, and (documents, 3) lengths."""
    tokens = encode(texts)
    ends = np.flatnonzero(tokens == eos_id) + 1
    assert len(ends) == len(texts), "every document ends with <eos> and has no other"
    lengths = np.empty((len(texts), len(LENGTHS)), np.int64)
    lengths[:, 0] = np.diff(ends, prepend=0)
    lengths[:, 1] = [len(text) for text in texts]
    lengths[:, 2] = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    return tokens, lengths


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[list[str]], Any], batches: Iterable[list[str]], workers: int
) -> Iterator[Any]:
    """`map` over a pool that reads only a few batches ahead, so that memory stays flat."""
    waiting: deque[Future[Any]] = deque()
    for batch in batches:
        waiting.append(pool.submit(function, batch))
        if len(waiting) > 2 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
