"""Filters: drop documents that are blank, too short, too long, duplicate or over a limit, and count each kind.

Duplicates are found by the 16-byte BLAKE2b digests of texts, which take about 100 bytes of memory per document that is
kept; nothing else here grows with the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator


class Filters:
    """Filters by content. `read` counts all documents, `removed` the dropped ones by reason."""

    def __init__(self, *, min_chars: int, max_chars: int | None, deduplicate: bool) -> None:
        self.read = 0
        self.removed = {"blank": 0, "too_short": 0, "too_long": 0, "duplicate": 0}
        self._min_chars, self._max_chars, self._deduplicate = min_chars, max_chars, deduplicate
        self._seen: set[bytes] = set()

    def apply(self, documents: Iterable[str]) -> Iterator[str]:
        """Yields the documents to keep."""
        for text in documents:
            self.read += 1
            if self.keep(text):
                yield text

    def keep(self, text: str) -> bool:
        """Whether to keep a text. If so, later copies of it are duplicates."""
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
            # surrogatepass: DocumentWriter refuses lone surrogates, with their position
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                return "duplicate"
            self._seen.add(digest)
        return None


class Limits:
    """The maximum number of documents per split (None: no limit). `over` counts the documents above it."""

    def __init__(self, limits: dict[str, int | None]) -> None:
        self.over = 0
        self.stopped_early = False  # all splits were full before the source ended
        self._remaining = dict(limits)

    def full(self, split: str) -> bool:
        return self._remaining[split] == 0

    def take(self, split: str) -> bool:
        """Counts one more document; False if `split` is full."""
        remaining = self._remaining[split]
        if remaining == 0:
            self.over += 1
            return False
        if remaining is not None:
            self._remaining[split] = remaining - 1
        return True
