"""Writes the files of a split as its tokens arrive, and returns the metadata of the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.io.files import AtomicFile, write_json
from tiny_lm.shards.format import (
    FORMAT,
    LENGTHS,
    Lengths,
    Shard,
    ShardsMetadata,
    Split,
    dtype_for,
    mean_length,
    shard_name,
)


def write_metadata(folder: Path, metadata: ShardsMetadata) -> None:
    write_json(folder / "metadata.json", asdict(metadata))


def make_metadata(
    vocab_size: int, special_ids: Mapping[str, int], tokenizer: str, splits: Mapping[str, Split]
) -> ShardsMetadata:
    """`special_ids` are those of `pad`, `eos`, `bos` and `unk`; `tokenizer` is the tokenizer's digest."""
    return ShardsMetadata(
        format=FORMAT,
        dtype=dtype_for(vocab_size).name,
        vocab_size=vocab_size,
        **{f"{name}_id": special_ids[name] for name in ("pad", "eos", "bos", "unk")},
        tokenizer=tokenizer,
        train=splits["train"],
        val=splits["val"],
    )


class LengthCounts:
    """Number and lengths of the documents of a split."""

    def __init__(self, name: str) -> None:
        self.name, self.documents = name, 0
        self._sums = np.zeros(len(LENGTHS), np.int64)
        self._min = np.full(len(LENGTHS), np.iinfo(np.int64).max)
        self._max = np.zeros(len(LENGTHS), np.int64)

    def add(self, lengths: NDArray[Any]) -> None:
        """Adds documents by their (documents, 3) lengths as in LENGTHS."""
        if lengths.max() >= 1 << 32:
            raise ValueError(f"{self.name}: a document has {lengths.max()} bytes, must be under 2^32; split it")
        self.documents += len(lengths)
        self._sums += lengths.sum(axis=0, dtype=np.int64)
        self._min = np.minimum(self._min, lengths.min(axis=0))
        self._max = np.maximum(self._max, lengths.max(axis=0))

    def split(self, shards: Sequence[Shard], lengths_sha256: str) -> Split:
        """The metadata of the split."""
        tokens, characters, text_bytes = self._sums.tolist()
        return Split(
            tokens=tokens,
            documents=self.documents,
            characters=characters,
            bytes=text_bytes,
            document_tokens=self._statistics(0),
            document_characters=self._statistics(1),
            lengths_sha256=lengths_sha256,
            shards=tuple(shards),
        )

    def require_documents(self) -> None:
        if not self.documents:
            raise ValueError(
                f"{self.name}: no documents; add text, or change dataset.validation_fraction, and run `dvc repro`"
            )

    def _statistics(self, column: int) -> Lengths:
        mean = mean_length(int(self._sums[column]), self.documents)
        return Lengths(min=int(self._min[column]), mean=mean, max=int(self._max[column]))


class SplitWriter:
    """Writes the files of a split. Deletes older files first, and after an error the unfinished ones.

    Only lengths.bin and one shard are open at a time.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int, bos_id: int, shard_tokens: int) -> None:
        self.folder, self.name = folder, name
        self.vocab_size, self.bos_id, self.shard_tokens = vocab_size, bos_id, shard_tokens
        self.dtype = dtype_for(vocab_size)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.bin*"):
            old.unlink()
        self._lengths = AtomicFile(folder / name / "lengths.bin")
        self._file: AtomicFile | None = None
        self._free = 0  # tokens until the open file is full
        self._starts = 0  # documents that begin in the open file
        self._shards: list[Shard] = []
        self._counts = LengthCounts(name)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._lengths.discard()
        if self._file:
            self._file.discard()

    def write(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Appends whole documents: their tokens, and their (documents, 3) lengths as in LENGTHS."""
        assert len(tokens) == lengths[:, 0].sum()
        assert int(tokens.max()) < self.vocab_size
        self._counts.add(lengths)
        self._lengths.write(np.ascontiguousarray(lengths, "<u4").data)
        tokens = np.ascontiguousarray(tokens, self.dtype)
        while len(tokens):
            if self._file is None:
                self._file = AtomicFile(self.folder / shard_name(self.name, len(self._shards)))
                self._free = self.shard_tokens
            chunk, tokens = tokens[: self._free], tokens[self._free :]
            self._file.write(chunk.data)
            self._starts += int(np.count_nonzero(chunk == self.bos_id))
            self._free -= len(chunk)
            if not self._free:
                self._finish_shard(self._file)

    def finish(self) -> Split:
        """Finishes the last shard and lengths.bin; returns the metadata of the split."""
        self._counts.require_documents()
        if self._file:
            self._finish_shard(self._file)
        return self._counts.split(self._shards, self._lengths.commit())

    def _finish_shard(self, file: AtomicFile) -> None:
        name, tokens = shard_name(self.name, len(self._shards)), self.shard_tokens - self._free
        self._shards.append(Shard(file=name, tokens=tokens, documents=self._starts, sha256=file.commit()))
        self._file, self._starts = None, 0
