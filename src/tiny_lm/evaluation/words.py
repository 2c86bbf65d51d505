"""Words in a stream of tokens, whatever the tokenizer and the language.

A word is a run of letters, digits and underscores, as `\\w+` of a regular expression and names in most programming
languages; combining marks count as letters, and so do parts of a character that is cut between tokens. A word begins in
the first token that has a character of it, often together with a space. Words with the same characters are the same,
with or without the space. In scripts without spaces between words, what stands between two punctuation marks is a word.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiny_lm.tokenizer.encode import Tokenizer

_BASE = 6364136223846793005  # of a polynomial hash modulo 2^64 (Knuth's multiplier, TAOCP vol. 2, section 3.3.4)


@dataclass(frozen=True)
class FoundWords:
    """Of rows of tokens, one after the other; (words,) each."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]  # place of the first token in its row
    key: NDArray[np.uint64]  # hash of the characters


class Words:
    """Finds words by tables of the vocabulary, without decoding."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """A special token has no word characters."""
        size = tokenizer.vocab_size
        self.first, self.last = np.zeros(size, bool), np.zeros(size, bool)  # is this character of a token in a word?
        self.length, self.hash = np.zeros(size, np.int64), np.zeros(size, np.uint64)  # of its word characters, in bytes
        for token, i in tokenizer.ranks.items():
            text = token.decode(errors="surrogateescape")
            inside = [_in_word(character) for character in text]
            self.first[i], self.last[i] = inside[0], inside[-1]
            characters = "".join(c for c, kept in zip(text, inside, strict=True) if kept)
            encoded = characters.encode(errors="surrogateescape")
            self.length[i] = len(encoded)
            value = 0
            for byte in reversed(encoded):
                value = (value * _BASE + byte) % (1 << 64)
            self.hash[i] = value

    def find(self, tokens: NDArray[np.integer]) -> FoundWords:
        """Words in rows of tokens, (B, T). Those at the edge of a row are not counted, since it may cut them."""
        width, flat = tokens.shape[1], tokens.ravel()
        begins = np.ones(tokens.shape, bool)
        begins[:, 1:] = ~(self.last[tokens[:, :-1]] & self.first[tokens[:, 1:]])
        starts = np.flatnonzero(begins)  # of words, and of tokens without word characters
        ends = np.append(starts[1:], flat.size)
        length = self.length[flat]
        offset = np.cumsum(length) - length  # in the bytes of all words
        offset -= np.repeat(offset[starts], ends - starts)  # in the bytes of the token's word
        powers = np.full(int(offset.max(initial=0)) + 1, _BASE, np.uint64)
        powers[0] = 1
        key = np.add.reduceat(self.hash[flat] * np.cumprod(powers, dtype=np.uint64)[offset], starts)
        kept = (length[starts] > 0) & (starts % width > 0) & (ends % width > 0)
        return FoundWords(starts[kept] // width, starts[kept] % width, key[kept])


def _in_word(character: str) -> bool:
    """Letters, marks, digits, underscores, and bytes of a cut character, which decode to surrogates."""
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Cs" or character == "_"
