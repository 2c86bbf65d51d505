"""A byte-level vocabulary as other programs spell it: printable characters for bytes, and the list of merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Protocol


class Vocabulary(Protocol):
    """What an export reads of a tokenizer."""

    ranks: dict[bytes, int]
    vocab_size: int
    special_tokens: dict[str, int]
    pad_id: int
    eos_id: int
    bos_id: int
    unk_id: int

    def encode(self, text: str) -> Iterable[int]: ...


def spell(token: bytes) -> str:
    """GPT-2's printable character for each byte."""
    return "".join(_SPELLING[byte] for byte in token)


def bpe_merges(ranks: Mapping[bytes, int]) -> Iterable[tuple[bytes, ...]]:
    """The two tokens that each token is merged from, by rank: what it splits into with lower ranks alone."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            lowest = min(ranks.get(a + b, rank) for a, b in pairwise(parts))
            if lowest >= rank:
                raise ValueError(f"the tokenizer's token {rank}, {token!r}, is no merge of two tokens of lower rank")
            merged: list[bytes] = []
            for part in parts:  # all of that rank at once: nothing that they make has a lower one
                if merged and ranks.get(merged[-1] + part) == lowest:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        yield tuple(parts)


def _spelling() -> list[str]:
    """By byte: the character of that number where it is printable, else one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


_SPELLING = _spelling()
