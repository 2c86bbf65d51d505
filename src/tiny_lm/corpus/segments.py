"""Segments: the documents of a draft that are kept. A split of the corpus is a list of segments, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
