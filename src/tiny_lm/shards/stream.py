"""Reads the shards of a split as one stream of tokens, whatever the number and size of the files.

Files are memory-mapped when they are first read. Each map holds a file descriptor, so their number is limited; the
least recently used one is closed.
"""

import mmap
import resource
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.shards.format import LENGTHS, REMEDY, Split, dtype_for, read_metadata

_MAX_MAPS = 4096  # per stream; Linux allows a process 65,530 maps in all (vm.max_map_count)


class TokenStream:
    """The files of a split as one sequence of tokens. Raises ValueError if a file is missing or has the wrong size."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.metadata = read_metadata(folder)
        self.split: Split = getattr(self.metadata, name)
        self.dtype = dtype_for(self.metadata.vocab_size)
        self.bounds = np.cumsum([0, *(shard.tokens for shard in self.split.shards)], dtype=np.int64)  # of each file
        paths, dtype = [folder / shard.file for shard in self.split.shards], self.dtype
        for path, shard in zip(paths, self.split.shards, strict=True):
            _check_size(path, shard.tokens * dtype.itemsize)
        self._map_shard = lru_cache(_max_maps())(lambda index: _map(paths[index], dtype))

    def __len__(self) -> int:
        return self.split.tokens

    def shard(self, index: int) -> NDArray[Any]:
        """The tokens of one file, memory-mapped."""
        return self._map_shard(index)[1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the stream, in the dtype of the files."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        out = np.empty(stop - start, self.dtype)
        index, done = int(np.searchsorted(self.bounds, start, side="right")) - 1, 0
        while done < len(out):
            first = start + done - int(self.bounds[index])
            chunk = self.shard(index)[first : first + len(out) - done]
            out[done : done + len(chunk)] = chunk
            index, done = index + 1, done + len(chunk)
        return out

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """`length` tokens from each of `starts`, file by file: (B,) → (B, length); undefined past the end."""
        out = np.empty((len(starts), length), np.int64)
        shards = np.searchsorted(self.bounds, starts, side="right") - 1  # (B,) the file in which a window begins
        offsets = starts - self.bounds[shards]  # (B,)
        if length > 1:  # windows are far apart, so a cold disk should read all of them at once
            size = self.dtype.itemsize
            for shard, offset in zip(shards.tolist(), (offsets * size).tolist(), strict=True):
                self._map_shard(shard)[0].madvise(
                    mmap.MADV_WILLNEED, offset & -mmap.PAGESIZE, length * size + mmap.PAGESIZE
                )
        inside = starts + length <= self.bounds[shards + 1]  # (B,) the window ends in the same file
        batch = np.flatnonzero(inside)
        batch = batch[np.argsort(shards[batch], kind="stable")]
        for indices in np.split(batch, np.flatnonzero(np.diff(shards[batch])) + 1) if len(batch) else ():
            views = np.lib.stride_tricks.sliding_window_view(self.shard(int(shards[indices[0]])), length)
            out[indices] = views[offsets[indices]]
        for i in np.flatnonzero(~inside):
            tokens = self.read(int(starts[i]), min(int(starts[i]) + length, len(self)))
            out[i, : len(tokens)] = tokens
        return out

    @cached_property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens (with <bos> and <eos>), characters and UTF-8 bytes of each document: (documents, 3), memory-mapped."""
        path, dtype = self.folder / self.name / "lengths.bin", np.dtype("<u4")
        _check_size(path, self.split.documents * len(LENGTHS) * dtype.itemsize)
        return _map(path, dtype)[1].reshape(-1, len(LENGTHS))

    def document_starts(self, stop: int | None = None, first: int = 0, begin: int = 0) -> NDArray[np.int64]:
        """The starts of documents `first` … `stop`, and the end of the last. The first starts at `begin`."""
        tokens = self.lengths[first:stop, 0]
        starts = np.full(len(tokens) + 1, begin, np.int64)
        starts[1:] += np.cumsum(tokens, dtype=np.int64)
        valid = int(tokens.min()) >= 2 and starts[-1] <= len(self)
        valid = valid and bool((self.windows(starts[:-1], 1) == self.metadata.bos_id).all())
        if not valid or (self.windows(starts[1:] - 1, 1) != self.metadata.eos_id).any():
            raise ValueError(f"{self.folder / self.name / 'lengths.bin'}: does not match the tokens; {REMEDY}")
        return starts


def _max_maps() -> int:
    """How many files a stream keeps open: an eighth of the process limit, because tools read up to four streams."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_MAPS if soft == resource.RLIM_INFINITY else max(1, min(soft // 8, _MAX_MAPS))


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    if (found := path.stat().st_size) != size:
        raise ValueError(f"{path}: {found} bytes, must be {size}; {REMEDY}")


def _map(path: Path, dtype: np.dtype[Any]) -> tuple[mmap.mmap, NDArray[Any]]:
    """A memory-mapped file, and its content as an array; closed when nothing refers to it."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, np.frombuffer(mapped, dtype)
