"""Writes the segments of a split as files of documents, each cut at a fixed amount of text, in parallel.

A document belongs to the file in whose range of the split's bytes it begins, so files depend on the documents alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tiny_lm.corpus.segments import Segment
from tiny_lm.documents import DocumentWriter, FileMetadata, SplitMetadata, file_name
from tiny_lm.executor import Executor

FILE_BYTES = 2**26  # of text, before compression


@dataclass(frozen=True)
class FileTask:
    """The documents of `pieces` that begin in a range of the bytes of their segment."""

    path: Path
    pieces: tuple[tuple[Segment, int, int], ...]


def write_split(executor: Executor, folder: Path, split: str, segments: Sequence[Segment]) -> SplitMetadata:
    """Writes the files of a split into `folder`, and returns its entry in metadata.json."""
    shutil.rmtree(folder / split, ignore_errors=True)
    (folder / split).mkdir(parents=True)
    files: list[FileMetadata] = []
    for written, file in executor.ordered(write_file, _files(folder, split, segments)):
        if file is None:  # a document of the file before covers its whole range
            written.unlink()
            continue
        path = folder / file_name(split, len(files))
        os.rename(written, path)
        files.append(replace(file, file=file_name(split, len(files))))
    return SplitMetadata.of(files)


def _files(folder: Path, split: str, segments: Sequence[Segment]) -> Iterator[FileTask]:
    start, pieces, number = 0, [], 0
    for segment in segments:
        at = 0
        while at < segment.bytes:
            end = min((number + 1) * FILE_BYTES - start, segment.bytes)
            pieces.append((segment, at, end))
            if start + end == (number + 1) * FILE_BYTES:
                yield FileTask(folder / f"{split}/{number}.part", tuple(pieces))
                number, pieces = number + 1, []
            at = end
        start += segment.bytes
    if pieces:
        yield FileTask(folder / f"{split}/{number}.part", tuple(pieces))


def write_file(task: FileTask) -> tuple[Path, FileMetadata | None]:
    with DocumentWriter(task.path) as writer:
        for segment, start, end in task.pieces:
            numbers = segment.kept()
            facts = segment.draft.facts()[numbers]
            starts = np.cumsum(facts["bytes"], dtype=np.int64) - facts["bytes"]
            chosen = slice(*np.searchsorted(starts, (start, end)))
            characters = facts["characters"][chosen].tolist()
            for data, length in zip(segment.draft.texts(numbers[chosen]), characters, strict=True):
                writer.append(data, length)
    return task.path, writer.metadata(task.path.name) if writer.counts.documents else None
