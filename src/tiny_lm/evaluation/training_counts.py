"""How often tokens and words occur in the training split, in bounded time and memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiny_lm.evaluation.words import Words
from tiny_lm.shards.stream import TokenStream

CHUNK, CHUNKS = 1 << 16, 1024  # of a longer training split, chunks at equal distances are counted
BUCKETS = 1 << 22


class TrainingCounts:
    """Counts of each token, exact, and of words by hash. Words in the same one of the 4 million buckets are counted
    together (a count-min sketch with one row, Cormode & Muthukrishnan 2005), so a word may seem more frequent than it
    is, never rarer. With 10,000 frequent words, this concerns one rare word in 400.
    """

    def __init__(self, stream: TokenStream, words: Words) -> None:
        self.tokens = np.zeros(stream.metadata.vocab_size, np.int64)
        self.total_words = 0
        self._buckets = np.zeros(BUCKETS, np.uint32)
        starts = np.arange(0, len(stream), CHUNK)
        if len(starts) > CHUNKS:
            starts = starts[np.linspace(0, len(starts) - 1, CHUNKS).astype(int)]
        for start in starts.tolist():
            tokens = stream.read(start, min(start + CHUNK, len(stream)))
            self.tokens += np.bincount(tokens, minlength=len(self.tokens))
            keys = words.find(tokens[None]).key
            self.total_words += len(keys)
            np.add.at(self._buckets, _bucket(keys), np.uint32(1))

    def words(self, keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The counts of words, (words,)."""
        return self._buckets[_bucket(keys)]


def _bucket(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The highest bits, mixed by Fibonacci hashing (Knuth, TAOCP vol. 3, section 6.4)."""
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - BUCKETS.bit_length() + 1)
