"""A byte-level vocabulary as tokenizer.json and GGUF write it: tokens as printable text, and the list of merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise


def bytes_to_unicode(token: bytes) -> str:
    """A token as text, with GPT-2's printable character for each byte."""
    return "".join(_CHARACTERS[byte] for byte in token)


def unicode_to_bytes(text: str) -> bytes:
    """The inverse of `bytes_to_unicode`. KeyError if the text contains any other character."""
    return bytes(_BYTES[character] for character in text)


def recover_merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, ...]]:
    """The two tokens that each token was merged from, by rank: what it is split into if only lower ranks are used."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            lowest = min(ranks.get(a + b, rank) for a, b in pairwise(parts))
            if lowest >= rank:
                raise ValueError(f"the tokenizer's token {rank}, {token!r}, is not a merge of two tokens of lower rank")
            merged: list[bytes] = []
            for part in parts:  # all pairs of this rank at once, since no merge of theirs has a lower rank
                if merged and ranks.get(merged[-1] + part) == lowest:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        yield tuple(parts)


def _characters() -> list[str]:
    """The character of each byte: the one with the same number if that is printable, else one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


_CHARACTERS = _characters()
_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}
