"""Write the files of one split, token by token, and describe them for the metadata."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tiny_lm.io.files import write_json
from tiny_lm.shards.format import LENGTHS, Lengths, Shard, ShardsMetadata, Split, dtype_for, mean_length, shard_name


def write_metadata(folder: Path, metadata: ShardsMetadata) -> None:
    write_json(folder / "metadata.json", asdict(metadata))


class SplitWriter:
    """The files of one split while they are written. Removes older files first, and after an error the unfinished one.

    One file is open at a time, besides lengths.bin.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int, bos_id: int, shard_tokens: int) -> None:
        self.folder, self.name = folder, name
        self.vocab_size, self.bos_id, self.shard_tokens = vocab_size, bos_id, shard_tokens
        self.dtype = dtype_for(vocab_size)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.bin*"):
            old.unlink()
        self._lengths = _HashedFile(folder / name / "lengths.bin")
        self._file: _HashedFile | None = None
        self._free = 0  # tokens until the open file is full
        self._begun = 0  # documents that begin in the open file
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
        """Append whole documents: their tokens, and their (documents, 3) lengths as in LENGTHS."""
        assert len(tokens) == lengths[:, 0].sum()
        assert int(tokens.max()) < self.vocab_size
        if lengths.max() >= 1 << 32:
            raise ValueError(f"{self.name}: a document has {lengths.max()} bytes, must be under 2^32; split it up")
        self._lengths.write(lengths.astype("<u4"))
        self._documents += len(lengths)
        self._sums += lengths.sum(axis=0)
        self._min = np.minimum(self._min, lengths.min(axis=0))
        self._max = np.maximum(self._max, lengths.max(axis=0))
        tokens = tokens.astype(self.dtype, copy=False)
        while len(tokens):
            if self._file is None:
                self._file = _HashedFile(self.folder / shard_name(self.name, len(self._shards)))
                self._free = self.shard_tokens
            chunk, tokens = tokens[: self._free], tokens[self._free :]
            self._file.write(chunk)
            self._begun += int(np.count_nonzero(chunk == self.bos_id))
            self._free -= len(chunk)
            if not self._free:
                self._finish_shard(self._file)

    def finish(self) -> Split:
        """Finish the last file and describe the split."""
        if not self._documents:
            raise ValueError(
                f"{self.name}: no documents; add text, or change dataset.validation_fraction, and run `dvc repro`"
            )
        if self._file:
            self._finish_shard(self._file)
        tokens, characters, text_bytes = self._sums.tolist()
        return Split(
            tokens=tokens,
            documents=self._documents,
            characters=characters,
            bytes=text_bytes,
            document_tokens=self._statistics(0),
            document_characters=self._statistics(1),
            lengths_sha256=self._lengths.finish(),
            shards=tuple(self._shards),
        )

    def _finish_shard(self, file: _HashedFile) -> None:
        name, tokens = shard_name(self.name, len(self._shards)), self.shard_tokens - self._free
        self._shards.append(Shard(file=name, tokens=tokens, documents=self._begun, sha256=file.finish()))
        self._file, self._begun = None, 0

    def _statistics(self, column: int) -> Lengths:
        mean = mean_length(int(self._sums[column]), self._documents)
        return Lengths(min=int(self._min[column]), mean=mean, max=int(self._max[column]))


class _HashedFile:
    """A file that takes its name when it is finished, and the SHA-256 of its content."""

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
