"""Segments: the documents of a draft that are kept. A split of a source is a list of segments, in order.

A piece is a range of the bytes of a segment, and has the documents that begin in it. So pieces that adjoin have
consecutive documents, and text is divided by arithmetic alone: no document is read or counted for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap

import numpy as np
from numpy.typing import NDArray

from tiny_lm.corpus.drafts import Draft
from tiny_lm.corpus.duplicates import Bits
from tiny_lm.executor import Executor


@dataclass(frozen=True)
class Segment:
    draft: Draft
    dropped: Bits  # the documents of the draft that are left out; empty: none
    documents: int  # kept
    characters: int
    bytes: int

    def kept(self) -> NDArray[np.intp]:
        """The numbers of the documents, in order."""
        if not len(self.dropped):
            return np.arange(self.draft.documents)
        return np.flatnonzero(np.unpackbits(self.dropped, count=self.draft.documents) == 0)


def whole(draft: Draft) -> Segment:
    return Segment(draft, np.zeros(0, np.uint8), draft.documents, draft.characters, draft.text_bytes)


def without(executor: Executor, drafts: Sequence[Draft], bits: Sequence[Bits]) -> list[Segment]:
    """The segments that remain of the drafts without the documents marked in `bits`."""
    segments = [whole(draft) for draft in drafts]
    marked = [index for index, dropped in enumerate(bits) if dropped.any()]
    tasks = ((drafts[index], bits[index]) for index in marked)
    for index, segment in zip(marked, executor.ordered(_remaining, tasks), strict=True):
        segments[index] = segment
    return segments


def _remaining(task: tuple[Draft, Bits]) -> Segment:
    draft, dropped = task
    return _segment(draft, np.unpackbits(dropped, count=draft.documents) == 0)


def select(segment: Segment, numbers: NDArray[np.intp]) -> Segment:
    """The segment with only some of its documents."""
    keep = np.zeros(segment.draft.documents, bool)
    keep[numbers] = True
    return _segment(segment.draft, keep)


def _segment(draft: Draft, keep: NDArray[np.bool_]) -> Segment:
    facts = draft.facts()[keep]
    characters, size = (int(facts[key].sum(dtype=np.int64)) for key in ("characters", "bytes"))
    return Segment(draft, np.packbits(~keep), len(facts), characters, size)


def take(segments: Sequence[Segment], limit: int | None) -> list[Segment]:
    """The first `limit` documents; None: all."""
    if limit is None:
        return list(segments)
    taken: list[Segment] = []
    for segment in segments:
        if segment.documents > limit:
            taken += [select(segment, segment.kept()[:limit])] if limit else []
            break
        taken.append(segment)
        limit -= segment.documents
    return taken


def count(segments: Sequence[Segment]) -> int:
    return sum(segment.documents for segment in segments)


Piece = tuple[Segment, int, int]  # first byte, end


class Tape:
    """Pieces, one after the other, of which the next bytes are taken."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._rest: Piece | None = None

    def take(self, size: int) -> Iterator[Piece]:
        while size:
            segment, start, end = self._rest or next(self._pieces)
            cut = min(start + size, end)
            self._rest = (segment, cut, end) if cut < end else None
            size -= cut - start
            yield segment, start, cut


class Texts:
    """The documents of a segment, by the bytes of the segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        facts, numbers = segment.draft.facts(), segment.kept()
        self._ends = np.cumsum(facts["bytes"], dtype=np.int64)[numbers]  # in the draft
        self._sizes, self._characters = facts["bytes"][numbers].astype(np.int64), facts["characters"][numbers]
        self._starts = np.cumsum(self._sizes) - self._sizes  # in the segment
        with open(f"{segment.draft.name}.text", "rb") as file:
            self._text = mmap(file.fileno(), 0, access=ACCESS_READ)

    def read(self, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Yields the (UTF-8, characters) of the documents that begin in a range."""
        chosen = slice(*np.searchsorted(self._starts, (start, end)))
        ends, sizes = self._ends[chosen].tolist(), self._sizes[chosen].tolist()
        for last, size, characters in zip(ends, sizes, self._characters[chosen].tolist(), strict=True):
            yield self._text[last - size : last], characters
