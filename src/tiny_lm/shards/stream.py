"""Reads shards: the files of a split as one stream of tokens, memory-mapped, whatever its size; and checks them."""

import hashlib
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tiny_lm.shards.format import LENGTHS, REMEDY, SPLITS, Shard, ShardsMetadata, dtype_for, read_metadata

_CHUNK = 4 << 20  # tokens that a check reads at a time


class TokenStream:
    """The files of a split, mapped as `shards`, as one sequence of tokens; ValueError where one has another size."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.metadata = read_metadata(folder)
        self.split = self.metadata.split(name)
        dtype = dtype_for(self.metadata.vocab_size)
        self.shards = [_open(folder / shard.file, dtype, shard.tokens) for shard in self.split.shards]
        self.bounds = np.cumsum([0, *(len(shard) for shard in self.shards)], dtype=np.int64)  # where each begins

    def __len__(self) -> int:
        return self.split.tokens

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStream, (self.folder, self.name)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the stream, in the dtype of the files."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        first, last = np.searchsorted(self.bounds, [start, stop], side="right") - 1
        files = range(first, min(last + 1, len(self.shards)))
        parts = [self.shards[k][max(0, start - self.bounds[k]) : stop - self.bounds[k]] for k in files]
        return np.concatenate(parts) if parts else np.empty(0, dtype_for(self.metadata.vocab_size))

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """`length` tokens from each of `starts`: (B,) → (B, length), gathered at once from each file."""
        out = np.empty((len(starts), length), np.int64)
        owner = np.searchsorted(self.bounds, starts, side="right") - 1  # (B,) the file where a window begins
        inside = starts + length <= self.bounds[owner + 1]  # (B,) and ends
        for k in np.unique(owner[inside]):
            rows = np.flatnonzero(inside & (owner == k))
            every = np.lib.stride_tricks.sliding_window_view(self.shards[k], length)
            out[rows] = every[starts[rows] - self.bounds[k]]
        for row in np.flatnonzero(~inside):
            out[row] = self.read(int(starts[row]), int(starts[row]) + length)
        return out

    @cached_property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens (with <bos> and <eos>), characters and UTF-8 bytes of each document: (documents, 3), memory-mapped."""
        flat = _open(self.folder / self.name / "lengths.bin", np.dtype("<u4"), self.split.documents * len(LENGTHS))
        return flat.reshape(-1, len(LENGTHS))

    def document_starts(self, limit: int | None = None) -> NDArray[np.int64]:
        """Where each of the first `limit` documents begins, and where the last of them ends: (documents + 1,)."""
        tokens = self.lengths[:limit, 0]
        starts = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum(tokens, out=starts[1:])
        sound = int(tokens.min()) >= 2 and starts[-1] <= len(self)
        sound = sound and bool((self.windows(starts[:-1], 1) == self.metadata.bos_id).all())
        if not sound or (self.windows(starts[1:] - 1, 1) != self.metadata.eos_id).any():
            raise ValueError(f"{self.folder / self.name / 'lengths.bin'}: not the lengths of these shards; {REMEDY}")
        return starts


def verify_shards(folder: Path, progress: bool = False) -> ShardsMetadata:
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
        with tqdm(total=len(stream), desc=f"verify {name}", unit=" tokens", unit_scale=True, disable=not progress,
                  mininterval=0.5 if sys.stderr.isatty() else 30) as bar:  # fmt: skip
            for shard, tokens in zip(split.shards, stream.shards, strict=True):
                _verify_shard(folder / shard.file, shard, tokens, metadata, bar)
        stream.document_starts()
    return metadata


def _verify_shard(path: Path, shard: Shard, tokens: NDArray[Any], metadata: ShardsMetadata, bar: tqdm) -> None:
    digest, begins, ends = hashlib.sha256(), 0, 0
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        digest.update(chunk.data)
        if int(chunk.max()) >= metadata.vocab_size:
            raise ValueError(f"{path}: token {chunk.max()}, must be below {metadata.vocab_size}; {REMEDY}")
        begins += int(np.count_nonzero(chunk == metadata.bos_id))
        ends += int(np.count_nonzero(chunk == metadata.eos_id))
        bar.update(len(chunk))
    if digest.hexdigest() != shard.sha256:
        raise ValueError(f"{path}: its checksum is not the one in metadata.json; {REMEDY}")
    if begins != shard.documents or abs(begins - ends) > 1:
        raise ValueError(f"{path}: {begins} <bos> and {ends} <eos>, must be {shard.documents}; {REMEDY}")


def _open(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """The `count` numbers of a file, memory-mapped; ValueError where it has another size."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    size = path.stat().st_size
    if size != count * dtype.itemsize:
        raise ValueError(f"{path}: {size} bytes, must be {count * dtype.itemsize}; {REMEDY}")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # asarray: slicing a memmap object is ten times slower
