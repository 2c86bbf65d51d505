"""Trains a byte-level BPE tokenizer with `rustbpe`: merges the most frequent pair until the vocabulary is full.

Documents are streamed; memory holds only the distinct chunks and their counts. Ties go to the lower ids, so that the
same documents give the same vocabulary on any number of threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import rustbpe
from tqdm import tqdm

from tiny_lm.io.params import check
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS, SPECIAL_TOKENS, parts_of

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
MAX_BYTES = 2**31 - 1  # of text: rustbpe counts pairs in 32 bits, so it learns from the first 2 GiB only
MAX_WHITE_SPACE = 1 << 16  # characters in a row; rustbpe's regex engine fails at less than a million
PART = 1 << 14  # characters of a long text that rustbpe gets at a time
_BUFFER = 1024  # texts that rustbpe holds at a time; more are no faster


@dataclass(frozen=True, kw_only=True)
class TokenizerParams:
    vocab_size: int = 4096  # including the special tokens <pad> <eos> <bos> <unk>
    # gpt4-digits2 | llama3 | gpt2: splits text before merging; llama.cpp supports the last two
    pattern: str = "gpt4-digits2"

    def __post_init__(self) -> None:
        allowed = f"between {MIN_VOCAB_SIZE} (256 bytes and {len(SPECIAL_TOKENS)} special tokens) and 2^31"
        check(MIN_VOCAB_SIZE <= self.vocab_size <= 2**31, "vocab_size", self.vocab_size, allowed)
        check(self.pattern in PATTERNS, "pattern", self.pattern, f"one of {', '.join(PATTERNS)}")


def train_tokenizer(documents: Iterable[str], params: TokenizerParams, progress: bool = False) -> Tokenizer:
    """A tokenizer of exactly `params.vocab_size` tokens. Raises ValueError if the text has too few pairs for that."""
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(
        _training_text(documents, progress),
        vocab_size=params.vocab_size - len(SPECIAL_TOKENS),
        buffer_size=_BUFFER,
        pattern=PATTERNS[params.pattern],
    )
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    size = len(ranks) + len(SPECIAL_TOKENS)
    if size < params.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size = {params.vocab_size}: the text is only enough for {size} tokens; set at most "
            f"{size}, or add text"
        )
    assert list(ranks.values()) == list(range(len(ranks)))
    return Tokenizer(ranks, params.pattern)


def bytes_per_token(tokenizer: Tokenizer, documents: Iterable[str], progress: bool = False) -> float:
    """Compression: UTF-8 bytes per token, not counting the special tokens around documents."""
    size = tokens = 0
    for text in _progress_bar(documents, "compression", progress):
        size += _utf8_length(text)
        tokens += len(tokenizer.encode(text))
    if not tokens:
        raise ValueError("no text to measure the tokenizer on: the validation split is empty")
    return size / tokens


def _training_text(documents: Iterable[str], progress: bool) -> Iterator[str]:
    """The documents, up to MAX_BYTES, with white space cut to a length that rustbpe's regex engine can handle."""
    size = 0
    for text in _progress_bar(documents, "tokenizer", progress):
        size += _utf8_length(text)
        if size > MAX_BYTES:
            return
        if len(text) > MAX_WHITE_SPACE:
            text = re.sub(r"\s{64,}", lambda run: run[0][:MAX_WHITE_SPACE], text)
        yield from (part for _, part in parts_of(text, PART))


def _progress_bar(documents: Iterable[str], description: str, progress: bool) -> tqdm[str]:
    return tqdm(documents, description, unit=" documents", disable=not progress)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
