"""Reads shards: the files of a split as one stream of tokens, memory-mapped, whatever its size."""

import mmap
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.shards.format import LENGTHS, REMEDY, Split, dtype_for, read_metadata


class TokenStream:
    """The files of a split, mapped as `shards`, as one sequence of tokens; ValueError where one has another size."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.metadata = read_metadata(folder)
        self.split: Split = getattr(self.metadata, name)
        dtype = dtype_for(self.metadata.vocab_size)
        self.shards = [_open(folder / shard.file, dtype, shard.tokens) for shard in self.split.shards]
        self.maps: list[Any] = [shard.base.base for shard in self.shards]  # type: ignore[union-attr]  # mmap objects
        self.bounds = np.cumsum([0, *(len(shard) for shard in self.shards)], dtype=np.int64)  # where each begins

    def __len__(self) -> int:
        return self.split.tokens

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the stream, in the dtype of the files."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        first, last = np.searchsorted(self.bounds, [start, stop], side="right") - 1
        files = range(first, min(last + 1, len(self.shards)))
        parts = [self.shards[k][max(0, start - self.bounds[k]) : stop - self.bounds[k]] for k in files]
        return np.concatenate(parts) if parts else np.empty(0, dtype_for(self.metadata.vocab_size))

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """`length` tokens from each of `starts`: (B,) → (B, length), by file at once; undefined past the end."""
        out = np.empty((len(starts), length), np.int64)
        owner = np.searchsorted(self.bounds, starts, side="right") - 1  # (B,) the file where a window begins
        inside = starts + length <= self.bounds[owner + 1]  # (B,) and ends
        if length > 1:  # far apart, unlike single tokens: a cold disk then works on all of them at once
            size = self.shards[0].itemsize
            for k, place in zip(owner.tolist(), ((starts - self.bounds[owner]) * size).tolist(), strict=True):
                self.maps[k].madvise(mmap.MADV_WILLNEED, place & -mmap.PAGESIZE, length * size + mmap.PAGESIZE)
        for k in np.unique(owner[inside]):
            rows = np.flatnonzero(inside & (owner == k))
            every = np.lib.stride_tricks.sliding_window_view(self.shards[k], length)
            out[rows] = every[starts[rows] - self.bounds[k]]
        for row in np.flatnonzero(~inside):
            tokens = self.read(int(starts[row]), min(int(starts[row]) + length, len(self)))
            out[row, : len(tokens)] = tokens
        return out

    @cached_property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens (with <bos> and <eos>), characters and UTF-8 bytes of each document: (documents, 3), memory-mapped."""
        flat = _open(self.folder / self.name / "lengths.bin", np.dtype("<u4"), self.split.documents * len(LENGTHS))
        return flat.reshape(-1, len(LENGTHS))

    def document_starts(self, stop: int | None = None, first: int = 0, begin: int = 0) -> NDArray[np.int64]:
        """Where the documents `first` … `stop` begin, the first of them at `begin`, and where the last of them ends."""
        tokens = self.lengths[first:stop, 0]
        starts = np.full(len(tokens) + 1, begin, np.int64)
        starts[1:] += np.cumsum(tokens, dtype=np.int64)
        sound = int(tokens.min()) >= 2 and starts[-1] <= len(self)
        sound = sound and bool((self.windows(starts[:-1], 1) == self.metadata.bos_id).all())
        if not sound or (self.windows(starts[1:] - 1, 1) != self.metadata.eos_id).any():
            raise ValueError(f"{self.folder / self.name / 'lengths.bin'}: not the lengths of these shards; {REMEDY}")
        return starts


def _open(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """The `count` numbers of a file, memory-mapped; ValueError where it has another size."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    size = path.stat().st_size
    if size != count * dtype.itemsize:
        raise ValueError(f"{path}: {size} bytes, must be {count * dtype.itemsize}; {REMEDY}")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # asarray: slicing a memmap object is ten times slower
