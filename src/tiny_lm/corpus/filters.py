"""Which documents stay: lengths, exact duplicates, limits on their number; and how many each of these removed.

Duplicates are found by a 16-byte BLAKE2b digest of each text, kept for the whole corpus: about 100 bytes of
memory per document that stays, the only thing here that grows with the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator


class Filters:
    """Which documents stay. `read` counts those that came, `removed` those refused, by reason."""

    def __init__(self, *, min_chars: int, max_chars: int | None, deduplicate: bool) -> None:
        self.read = 0
        self.removed = {"blank": 0, "too_short": 0, "too_long": 0, "duplicate": 0}
        self._min_chars, self._max_chars, self._deduplicate = min_chars, max_chars, deduplicate
        self._seen: set[bytes] = set()

    def apply(self, documents: Iterable[str]) -> Iterator[str]:
        """Those of `documents` that stay, as a stream."""
        for text in documents:
            self.read += 1
            if self.keep(text):
                yield text

    def keep(self, text: str) -> bool:
        """True for a text that stays, which counts as seen from then on."""
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
            # surrogatepass: text that UTF-8 cannot hold is the writer's to refuse, with its place
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                return "duplicate"
            self._seen.add(digest)
        return None


class Limits:
    """At most so many documents per split (None: no limit). `over` counts documents that found no room."""

    def __init__(self, limits: dict[str, int | None]) -> None:
        self.over = 0
        self.stopped_early = False  # all that was asked for was there before the source ended
        self._room = dict(limits)

    def full(self, split: str) -> bool:
        return self._room[split] == 0

    def take(self, split: str) -> bool:
        """True if one more document fits into `split`."""
        room = self._room[split]
        if room == 0:
            self.over += 1
            return False
        if room is not None:
            self._room[split] = room - 1
        return True
