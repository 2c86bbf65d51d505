"""Words by tables of the vocabulary against a regular expression on the text."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.evaluation import training_counts
from tiny_lm.evaluation.training_counts import TrainingCounts
from tiny_lm.evaluation.words import Words
from tiny_lm.shards.stream import TokenStream
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS

CODE = Path(training_counts.__file__).read_text(encoding="utf-8")
GERMAN = "Über den Fluß, über die Brücke: Müllers Söhne (zwölf!) und 1024 Gänse - 'so spät?' fragte Änne.\n"
HINDI = "नमस्ते दुनिया, दुनिया गोल है। नमस्ते!"  # vowel signs are marks, which \\w does not have
TEXTS = [CODE, GERMAN, *(story(3, index) for index in range(20)), "x", "", " ", "...", "a_b1 _a __init__(self)"]


@pytest.fixture(scope="module", params=[("bytes", "gpt4-digits2"), *(("merges", name) for name in PATTERNS)], ids=str)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    kind, pattern = request.param
    size = 260 if kind == "bytes" else 700
    return train_tokenizer([*TEXTS, HINDI], TokenizerParams(vocab_size=size, pattern=pattern))


def by_definition(text: str, tokenizer: Tokenizer) -> list[tuple[int, str]]:
    """(number of the token in which it begins, word), where a document is <bos> text <eos>."""
    ids = tokenizer.encode(text).tolist()
    ends = np.cumsum([len(tokenizer.decode_bytes([i])) for i in ids])
    words = []
    for match in re.finditer(r"\w+", text):
        byte = len(text[: match.start()].encode())
        words.append((1 + int(np.searchsorted(ends, byte, side="right")), match[0]))
    return words


def test_words_are_those_of_a_regular_expression(tokenizer: Tokenizer) -> None:
    words, keys = Words(tokenizer), dict[int, str]()
    for text in TEXTS:
        ids = tokenizer.encode_documents([text])[None]
        found, expected = words.find(ids), by_definition(text, tokenizer)
        assert found.start.tolist() == [place for place, _ in expected]
        for key, (_, word) in zip(found.key.tolist(), expected, strict=True):
            assert keys.setdefault(key, word) == word
    assert len(set(keys.values())) == len(keys) > 150  # the same word has the same key, with a space or without


def test_marks_are_part_of_a_word(tokenizer: Tokenizer) -> None:
    found = Words(tokenizer).find(tokenizer.encode_documents(["नमस्ते दुनिया नमस्ते"])[None])
    assert len(found.key) == 3
    assert found.key[0] == found.key[2] != found.key[1]


def test_words_that_the_edge_of_a_row_may_cut_are_not_counted(tokenizer: Tokenizer) -> None:
    words, ids = Words(tokenizer), tokenizer.encode_documents(TEXTS).astype(np.int64)
    whole = words.find(ids[None])
    places = dict(zip(whole.start.tolist(), whole.key.tolist(), strict=True))
    width = 11
    rows = ids[: len(ids) // width * width].reshape(-1, width)
    found = words.find(rows)
    assert ((found.start > 0) & (found.start < width)).all()
    for row, start, key in zip(found.row.tolist(), found.start.tolist(), found.key.tolist(), strict=True):
        assert places[row * width + start] == key
    inside = {(place // width, place % width) for place in places if place < rows.size}
    missing = inside - set(zip(found.row.tolist(), found.start.tolist(), strict=True))
    text = [tokenizer.decode([i]) if i < len(tokenizer.ranks) else " " for i in ids.tolist()]
    for row, start in missing:
        rest = "".join(text[row * width + start : (row + 1) * width])
        assert start == 0 or re.fullmatch(r"\W*[\w\ufffd]+", rest), rest


@pytest.fixture
def stream(tokenizer: Tokenizer, tmp_path: Path) -> Callable[[int], TokenStream]:
    """stream(copies): training shards of the texts."""

    def stream(copies: int) -> TokenStream:
        ids = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "eos", "bos", "unk")}
        write_shards(
            tmp_path, {"train": TEXTS * copies, "val": ["a"]}, tokenizer.encode_documents,
            ShardsParams(shard_tokens=2000), vocab_size=tokenizer.vocab_size, special_ids=ids,
            tokenizer=tokenizer.digest, workers=1,
        )  # fmt: skip
        return TokenStream(tmp_path, "train")

    return stream


def test_all_tokens_and_words_of_a_small_training_split_are_counted(
    tokenizer: Tokenizer, stream: Callable[[int], TokenStream]
) -> None:
    words = Words(tokenizer)
    counts = TrainingCounts(stream(2), words)
    ids = tokenizer.encode_documents(TEXTS * 2)
    assert counts.tokens.tolist() == np.bincount(ids, minlength=tokenizer.vocab_size).tolist()
    keys, expected = np.unique(words.find(ids[None]).key, return_counts=True)
    assert counts.words(keys).tolist() == expected.tolist()
    assert counts.total_words == expected.sum()
    assert counts.words(np.array([12345], np.uint64)).tolist() == [0]


def test_of_a_large_training_split_evenly_spaced_chunks_are_counted(
    tokenizer: Tokenizer, stream: Callable[[int], TokenStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, tokens = Words(tokenizer), stream(4)
    exact = TrainingCounts(tokens, words)
    monkeypatch.setattr(training_counts, "CHUNK", 100)
    monkeypatch.setattr(training_counts, "CHUNKS", 10**6)
    every = TrainingCounts(tokens, words)
    assert (every.tokens == exact.tokens).all()
    assert 0.7 * exact.total_words < every.total_words < exact.total_words  # without words at the edges
    monkeypatch.setattr(training_counts, "CHUNKS", 5)
    some = TrainingCounts(tokens, words)
    last = (len(tokens) - 1) // 100 * 100
    assert some.tokens.sum() == 400 + len(tokens) - last
    assert (tokens.read(last, len(tokens))[-1], some.tokens[tokenizer.bos_id] > 0) == (tokenizer.eos_id, True)


def test_words_in_one_bucket_are_counted_together(
    tokenizer: Tokenizer, stream: Callable[[int], TokenStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, tokens = Words(tokenizer), stream(1)
    keys = np.unique(words.find(tokens.read(0, len(tokens))[None]).key)
    exact = TrainingCounts(tokens, words).words(keys)
    monkeypatch.setattr(training_counts, "BUCKETS", 64)
    few = TrainingCounts(tokens, words).words(keys)
    assert (few >= exact).all()
    assert (few > exact).any()
