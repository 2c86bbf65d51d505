"""Drafts: the documents of a part of the source that pass the filters, on disk, before duplicates are dropped.

`scan` reads a part and writes its drafts, in chunks of limited size. A draft is up to four files:

    NAME.text       the texts, one after the other
    NAME.facts      for each document its bytes, its characters, and its place among all documents of the chunk
    NAME.prints     the fingerprints of the texts, sorted, with the numbers of their documents
    NAME.removed    the place of each document that the filters dropped, and why

Documents are read from their source once, which may be a network, and whatever comes later reads drafts.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tiny_lm.corpus.filters import REASONS, Filters
from tiny_lm.corpus.sources.base import Part
from tiny_lm.documents import encode

CHUNK_BYTES = 2**25  # of text
CHUNK_DOCUMENTS = 2**17  # read
FACTS = np.dtype([("bytes", "<u4"), ("characters", "<u4"), ("place", "<u4")])


@dataclass(frozen=True)
class Draft:
    name: str  # path of its files, without their suffixes
    documents: int
    characters: int
    text_bytes: int

    def facts(self) -> NDArray[np.void]:
        return np.fromfile(f"{self.name}.facts", FACTS)

    def prints(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
        """The first and the second half of the fingerprints, sorted, and the numbers of their documents."""
        path, n = f"{self.name}.prints", self.documents
        high: NDArray[np.uint64] = np.memmap(path, "<u8", "r", 0, (n,))
        low: NDArray[np.uint64] = np.memmap(path, "<u8", "r", 8 * n, (n,))
        documents: NDArray[np.uint32] = np.memmap(path, "<u4", "r", 16 * n, (n,))
        return high, low, documents

    def texts(self, numbers: NDArray[np.intp]) -> Iterator[bytes]:
        """Yields the UTF-8 of some documents."""
        sizes = self.facts()["bytes"]
        ends = np.cumsum(sizes, dtype=np.int64)[numbers]
        starts = ends - sizes[numbers]
        with open(f"{self.name}.text", "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                yield text[start:end]


@dataclass(frozen=True)
class Chunk:
    """Consecutive documents of the source: how many were read, dropped by filters, and kept, by split."""

    name: str
    read: int
    removed: dict[str, int]
    drafts: dict[str, Draft]  # not empty


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A part to read, and what to do with its documents. `split` of None means a random one."""

    part: Part
    name: str  # path of the drafts, without the number of the chunk
    filters: Filters
    split: str | None
    seed: int = 0
    threshold: int = 0


def scan(task: Scan) -> list[Chunk]:
    """Writes the drafts of a part."""
    chunks: list[Chunk] = []
    writer = _ChunkWriter(f"{task.name}-0")
    prefix = b"%d\n" % task.seed
    for text in task.part.read():
        if writer.full():
            chunks.append(writer.finish())
            writer = _ChunkWriter(f"{task.name}-{len(chunks)}")
        if reason := task.filters.reason(text):
            writer.remove(reason)
            continue
        data = encode(text)
        number, check = fingerprint(prefix, data)
        writer.keep(task.split or ("val" if number < task.threshold else "train"), data, len(text), number, check)
    if writer.read:
        chunks.append(writer.finish())
    return chunks


def fingerprint(prefix: bytes, data: bytes) -> tuple[int, int]:
    """128 bits by which equal texts are found: 64 of BLAKE2b, which also decide a random split, CRC-32, and the length.

    Of 500 million different documents, two of one length have the same with a probability below 10^-12.
    """
    number = int.from_bytes(blake2b(prefix + data, digest_size=8).digest(), "little")
    return number, crc32(data) << 32 | len(data)


class _DraftWriter:
    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.characters, self.places = array("I"), array("I")
        self.high, self.low = array("Q"), array("Q")

    def finish(self, name: str) -> Draft:
        facts = np.empty(len(self.texts), FACTS)
        facts["bytes"] = np.fromiter(map(len, self.texts), "<u4", len(self.texts))
        facts["characters"], facts["place"] = self.characters, self.places
        return write_draft(name, self.texts, facts, np.array(self.high, "<u8"), np.array(self.low, "<u8"))


class _ChunkWriter:
    def __init__(self, name: str) -> None:
        self.name, self.read = name, 0
        self._bytes = 0
        self._splits: defaultdict[str, _DraftWriter] = defaultdict(_DraftWriter)
        self._removed: list[tuple[int, int]] = []  # place, number of the reason

    def full(self) -> bool:
        return self.read >= CHUNK_DOCUMENTS or self._bytes >= CHUNK_BYTES

    def remove(self, reason: str) -> None:
        self._removed.append((self.read, REASONS.index(reason)))
        self.read += 1

    def keep(self, split: str, data: bytes, characters: int, high: int, low: int) -> None:
        draft = self._splits[split]
        draft.texts.append(data)
        draft.characters.append(characters)
        draft.places.append(self.read)
        draft.high.append(high)
        draft.low.append(low)
        self._bytes += len(data)
        self.read += 1

    def finish(self) -> Chunk:
        removed = np.array(self._removed, "<u4").reshape(-1, 2)
        _write(f"{self.name}.removed", removed)
        drafts = {split: draft.finish(f"{self.name}-{split}") for split, draft in sorted(self._splits.items())}
        return Chunk(self.name, self.read, _count_reasons(removed), drafts)


def write_draft(
    name: str, texts: Iterable[bytes], facts: NDArray[np.void], high: NDArray[np.uint64], low: NDArray[np.uint64]
) -> Draft:
    order = np.lexsort((low, high))  # stable, so that copies of a text stay in order
    with open(f"{name}.text", "wb") as file:  # not unbuffered: a single write may be incomplete
        file.write(b"".join(texts))  # `writelines` would copy them to a buffer as well
    _write(f"{name}.facts", facts)
    _write(f"{name}.prints", high[order], low[order], order.astype("<u4"))
    characters, size = (int(facts[key].sum(dtype=np.int64)) for key in ("characters", "bytes"))
    return Draft(name, len(facts), characters, size)


def first_of(chunk: Chunk, read: int) -> Chunk:
    """The chunk as if its first `read` documents had been all of the part, as new files."""
    name, removed = f"{chunk.name}-first", np.fromfile(f"{chunk.name}.removed", "<u4").reshape(-1, 2)
    removed, drafts = removed[removed[:, 0] < read], {}
    for split, draft in chunk.drafts.items():
        facts = draft.facts()
        facts = facts[facts["place"] < read]
        if len(facts):
            high, low, numbers = draft.prints()
            early = numbers < len(facts)
            order = np.argsort(numbers[early])  # as they were before they were sorted
            texts = draft.texts(np.arange(len(facts)))
            drafts[split] = write_draft(f"{name}-{split}", texts, facts, high[early][order], low[early][order])
    _write(f"{name}.removed", removed)
    return Chunk(name, read, _count_reasons(removed), drafts)


def _write(name: str, *arrays: NDArray[Any]) -> None:
    with open(name, "wb") as file:
        for array in arrays:
            file.write(array.tobytes())  # `tofile` ignores that the disk is full when it writes the rest


def _count_reasons(removed: NDArray[np.uint32]) -> dict[str, int]:
    return {reason: int((removed[:, 1] == i).sum()) for i, reason in enumerate(REASONS)}
