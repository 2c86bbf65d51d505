"""A byte-level vocabulary as tokenizer.json and GGUF store it: tokens as printable text, and a list of merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

# GPT-2's text for bytes: Latin-1, with U+0100, U+0101, … for the bytes that are not printable.
_PRINTABLE = {byte: 256 + i for i, byte in enumerate([*range(33), *range(127, 161), 173])}
_BYTES = {printable: byte for byte, printable in _PRINTABLE.items()}


def bytes_to_unicode(token: bytes) -> str:
    return token.decode("latin-1").translate(_PRINTABLE)


def unicode_to_bytes(text: str) -> bytes:
    """The inverse of `bytes_to_unicode`. ValueError for most other characters."""
    return text.translate(_BYTES).encode("latin-1")


def recover_merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, ...]]:
    """The two tokens that each token was merged from, by rank: how it is split if only lower ranks are used."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            lowest = min(ranks.get(a + b, rank) for a, b in pairwise(parts))
            if lowest >= rank:
                raise ValueError(f"the tokenizer's token {rank}, {token!r}, is not a merge of two tokens of lower rank")
            merged: list[bytes] = []
            for part in parts:  # merges all pairs of this rank at once, since merging one creates no pair of lower rank
                if merged and ranks.get(merged[-1] + part) == lowest:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        yield tuple(parts)
