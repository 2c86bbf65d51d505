"""Filter documents by length, exact duplicates and number, and count how many each rule removes.

Duplicates are found by a 16-byte BLAKE2b digest of each text. These take about 100 bytes of memory per document that
stays; nothing else here grows with the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator


class Filters:
    """`read` counts all documents, `removed` those that were filtered out, by reason."""

    def __init__(self, *, min_chars: int, max_chars: int | None, deduplicate: bool) -> None:
        self.read = 0
        self.removed = {"blank": 0, "too_short": 0, "too_long": 0, "duplicate": 0}
        self._min_chars, self._max_chars, self._deduplicate = min_chars, max_chars, deduplicate
        self._seen: set[bytes] = set()

    def apply(self, documents: Iterable[str]) -> Iterator[str]:
        """The documents that stay, as a stream."""
        for text in documents:
            self.read += 1
            if self.keep(text):
                yield text

    def keep(self, text: str) -> bool:
        """Whether a text stays. If so, its next copy is a duplicate."""
        reason = self._reason(text)
        if reason is not None:
            self.removed[reason] += 1
        return reason is None

    def _reason(self, text: str) -> str | None:
        if not text or text.isspace():
            return "blank"
        if len(text) < self._min_chars:
            return "too_short"
        if self._max_chars is not None and len(text) > self._max_chars:
            return "too_long"
        if self._deduplicate:
            # surrogatepass: DocumentWriter refuses such text and says where it is
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                return "duplicate"
            self._seen.add(digest)
        return None


class Limits:
    """A maximum number of documents per split (None: no limit). `over` counts the documents beyond it."""

    def __init__(self, limits: dict[str, int | None]) -> None:
        self.over = 0
        self.stopped_early = False  # all splits were full before the source ended
        self._left = dict(limits)

    def full(self, split: str) -> bool:
        return self._left[split] == 0

    def take(self, split: str) -> bool:
        """True if one more document fits into `split`."""
        left = self._left[split]
        if left == 0:
            self.over += 1
            return False
        if left is not None:
            self._left[split] = left - 1
        return True
