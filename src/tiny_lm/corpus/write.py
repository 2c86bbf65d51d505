"""Writes a split as files of documents, each cut at a fixed amount of text, in parallel.

The text of all sources is one sequence of bytes, in which each source has a constant share: of every file, and of every
round within a file. A document belongs to the file and the round in whose bytes it begins, so the files depend on the
documents alone, and any part of a split has all sources in nearly the same proportions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiny_lm.corpus.segments import Piece, Segment, Tape, Texts
from tiny_lm.documents import DocumentWriter, FileMetadata, SplitMetadata, file_name
from tiny_lm.executor import Executor

FILE_BYTES = 2**26  # of text, before compression
ROUND_BYTES = 2**14  # of text of all sources, before it is the turn of the first source again

COUNTED = ("documents", "characters", "bytes")
Counts = NDArray[np.int64]  # (pieces, 4): the number of the source, documents, characters, bytes


@dataclass(frozen=True)
class FileTask:
    """The documents that begin in some pieces of each source."""

    path: Path
    sources: tuple[tuple[Piece, ...], ...]


def write_split(
    executor: Executor, folder: Path, split: str, sources: Sequence[Sequence[Segment]], sizes: Sequence[int]
) -> tuple[SplitMetadata, list[dict[str, int]], list[tuple[int, int]]]:
    """Writes the files of a split into `folder`.

    Returns its entry in metadata.json, the counts of each source, and the (source, documents) of each run of documents
    from one source, in order.

    `sizes` are the bytes to take of each source, from its beginning: a source that has fewer is repeated.
    """
    shutil.rmtree(folder / split, ignore_errors=True)
    (folder / split).mkdir(parents=True)
    files: list[FileMetadata] = []
    total = np.zeros((len(sources), 3), np.int64)
    runs: list[tuple[int, int]] = []
    for written, file, counts in executor.ordered(write_file, _files(folder, split, sources, sizes)):
        if file is None:  # a document of the file before covers its whole range
            written.unlink()
            continue
        path = folder / file_name(split, len(files))
        os.rename(written, path)
        files.append(replace(file, file=file_name(split, len(files))))
        np.add.at(total, counts[:, 0], counts[:, 1:])
        runs += zip(*counts[counts[:, 1] > 0, :2].T.tolist(), strict=True)
    return SplitMetadata.of(files), [dict(zip(COUNTED, row, strict=True)) for row in total.tolist()], runs


def _files(folder: Path, split: str, sources: Sequence[Sequence[Segment]], sizes: Sequence[int]) -> Iterator[FileTask]:
    tapes = [Tape(cycle((segment, 0, segment.bytes) for segment in segments)) for segments in sources]
    total = sum(sizes)
    for number, start in enumerate(range(0, total, FILE_BYTES)):
        end = min(start + FILE_BYTES, total)
        pieces = (tape.take(_share(size, start, end, total)) for tape, size in zip(tapes, sizes, strict=True))
        yield FileTask(folder / f"{split}/{number}.part", tuple(map(tuple, pieces)))


def write_file(task: FileTask) -> tuple[Path, FileMetadata | None, Counts]:
    tapes = [Tape(pieces) for pieces in task.sources]
    sizes = [sum(end - start for _, start, end in pieces) for pieces in task.sources]
    rounds = -(-sum(sizes) // ROUND_BYTES) if len(tapes) > 1 else 1
    opened: list[Texts | None] = [None] * len(tapes)  # one per source, however many segments there are
    counts: list[tuple[int, ...]] = []
    with DocumentWriter(task.path) as writer:
        for turn in range(rounds):
            for source, (tape, size) in enumerate(zip(tapes, sizes, strict=True)):
                for segment, start, end in tape.take(_share(size, turn, turn + 1, rounds)):
                    texts = opened[source]
                    if texts is None or texts.segment is not segment:
                        texts = opened[source] = Texts(segment)
                    before = [getattr(writer.counts, key) for key in COUNTED]
                    for data, characters in texts.read(start, end):
                        writer.append(data, characters)
                    added = (getattr(writer.counts, key) - old for key, old in zip(COUNTED, before, strict=True))
                    counts.append((source, *added))
    return task.path, writer.metadata(task.path.name) if writer.counts.documents else None, np.array(counts)


def _share(size: int, start: int, end: int, total: int) -> int:
    """The bytes of a source between two places, of which there are `total` in all."""
    return size * end // total - size * start // total
