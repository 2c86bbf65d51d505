"""Exact duplicates: of equal texts, the first in the order of the corpus is kept.

Fingerprints are compared in buckets, by ranges of their values, so that a process holds those of one bucket only,
whatever the size of the corpus. What was found is kept as one bit for each document.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiny_lm.corpus.drafts import Draft
from tiny_lm.executor import Executor

BUCKET_DOCUMENTS = 2**21  # on average; about 100 bytes of memory for each

Bits = NDArray[np.uint8]  # packed, one for each document of a draft
Bucket = tuple[Sequence[Draft], int, int]


def find_duplicates(executor: Executor, drafts: Sequence[Draft]) -> list[Bits]:
    """For each draft the bits of the documents that are copies of earlier ones."""
    bits = [np.zeros(-(-draft.documents // 8), np.uint8) for draft in drafts]
    buckets = -(-sum(draft.documents for draft in drafts) // BUCKET_DOCUMENTS)
    for found in executor.ordered(later_copies, ((drafts, number, buckets) for number in range(buckets))):
        for index, documents in found:
            np.bitwise_or.at(bits[index], documents >> 3, np.uint8(128) >> (documents & 7).astype(np.uint8))
    return bits


def later_copies(bucket: Bucket) -> list[tuple[int, NDArray[np.uint32]]]:
    """The (draft, documents) of a bucket whose fingerprint occurred before."""
    drafts, number, buckets = bucket
    bounds = [number * 2**64 // buckets, (number + 1) * 2**64 // buckets]
    chosen = []
    for index, draft in enumerate(drafts):
        high, low, documents = draft.prints()
        start, end = (np.searchsorted(high, np.uint64(b)) if b < 2**64 else len(high) for b in bounds)
        mapped = (high[start:end], low[start:end], documents[start:end])
        # as copies, because a mapped file stays open, and there may be more drafts than a process may have open files
        chosen.append((*map(np.array, mapped), np.full(end - start, index, np.uint32)))
    high, low, documents, indices = map(np.concatenate, zip(*chosen, strict=True))
    del chosen
    order = np.lexsort((low, high))  # stable, so that equal ones stay in the order of the corpus
    high, low = high[order], low[order]
    copies = np.sort(order[1:][(high[1:] == high[:-1]) & (low[1:] == low[:-1])])
    documents, indices = documents[copies], indices[copies]
    ends = np.flatnonzero(np.diff(indices)) + 1
    groups = zip(np.split(indices, ends), np.split(documents, ends), strict=True)
    return [(int(index[0]), group) for index, group in groups if len(index)]


def occurs(drafts: Sequence[Draft], first: int, second: int) -> bool:
    """Whether any of the drafts contains the text with this fingerprint."""
    for draft in drafts:
        high, low, _ = draft.prints()
        start, end = (np.searchsorted(high, np.uint64(first), side) for side in ("left", "right"))
        if np.uint64(second) in low[start:end]:
            return True
    return False
