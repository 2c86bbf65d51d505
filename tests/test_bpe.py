import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tiny_lm import bpe
from tiny_lm.bpe import TokenizerParams, bytes_per_token, train_tokenizer
from tiny_lm.io.params import load_params
from tiny_lm.tokenizer.patterns import PATTERNS

TEXT = "the cat and the hat sat; the bat sat on that mat, and that was that\n"


def params(vocab_size: int = 280, pattern: str = "gpt4-digits2") -> TokenizerParams:
    return TokenizerParams(vocab_size=vocab_size, pattern=pattern)


def brute_force_merges(words: list[str], count: int) -> list[bytes]:
    """BPE as in the paper: counts all pairs, merges the most frequent one (ties: lower ids), and repeats."""
    ids = {bytes([i]): i for i in range(256)}
    split = [[bytes([b]) for b in word.encode()] for word in words]
    for _ in range(count):
        pairs = Counter(pair for word in split for pair in itertools.pairwise(word))
        a, b = min(pairs, key=lambda p: (-pairs[p], ids[p[0]], ids[p[1]]))
        ids[a + b] = len(ids)
        for word in split:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return list(ids)[256:]


def test_the_vocabulary_equals_brute_force() -> None:
    words = ["the", " the", " that", " cat", " sat", " mat", "aaaaaaa"] * 3 + [" that", " that"]
    tokenizer = train_tokenizer(words, params(256 + 12 + 4, "gpt2"))
    assert list(tokenizer.ranks)[256:] == brute_force_merges(words, 12)


@pytest.mark.parametrize("vocab_size", [260, 261, 280])
def test_the_vocabulary_has_exactly_the_requested_size(vocab_size: int) -> None:
    tokenizer = train_tokenizer([TEXT], params(vocab_size))
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.unk_id == vocab_size - 1


def test_documents_are_streamed_and_no_pair_crosses_documents() -> None:
    def stream() -> Iterator[str]:
        yield from ["ab"] * 5
        yield from ["cd"] * 4

    assert list(train_tokenizer(stream(), params(262)).ranks)[256:] == [b"ab", b"cd"]


def test_the_pattern_decides_what_can_be_a_token() -> None:
    numbers = ["2024 2024 2024"] * 3
    assert b"2024" in train_tokenizer(numbers, params(263, "gpt2")).ranks
    assert b"202" in train_tokenizer(numbers, params(262, "llama3")).ranks
    assert max(map(len, train_tokenizer(numbers, params(262)).ranks)) == 2


def test_too_little_text_is_an_error_with_the_largest_possible_size() -> None:
    with pytest.raises(
        ValueError, match=r"^tokenizer.vocab_size = 4096: the text is only enough for 262 tokens; set at most 262"
    ):
        train_tokenizer(["abab"], params(4096))
    assert train_tokenizer(["abab"], params(262)).vocab_size == 262


def test_white_space_that_is_too_long_for_the_regex_engine_does_not_stop_training() -> None:
    assert train_tokenizer(["x" + " " * 3_000_000 + "y", TEXT], params(270)).vocab_size == 270


def test_text_beyond_32_bit_counts_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "MAX_BYTES", 12)
    tokenizer = train_tokenizer(["ababab", "abéab", "cdcdcdcdcd"], params(261))
    assert list(tokenizer.ranks)[256:] == [b"ab"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "vocab_size",
            259,
            r"tokenizer.vocab_size = 259: must be between 260 \(256 bytes and 4 special tokens\) and 2",
        ),
        ("vocab_size", 2**31 + 1, "tokenizer.vocab_size = 2147483649: must be between 260"),
        ("pattern", "cl100k", "tokenizer.pattern = 'cl100k': must be one of gpt4-digits2, llama3, gpt2"),
    ],
)
def test_params_out_of_range_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_params("tokenizer", {"vocab_size": 4096, "pattern": "gpt2", key: value}, TokenizerParams)


@pytest.mark.parametrize(("preset", "vocab_size"), [("4k", 4096), ("8k", 8192), ("16k", 16384)])
def test_presets(preset: str, vocab_size: int) -> None:
    path = Path(__file__).parents[1] / f"configs/tokenizer/{preset}.yaml"
    values = yaml.safe_load(path.read_text())["tokenizer"]
    assert load_params("tokenizer", values, TokenizerParams) == params(vocab_size)


def test_bytes_per_token_counts_utf8_bytes_of_all_documents() -> None:
    tokenizer = train_tokenizer([TEXT], params(260))  # no merges: a token is a byte
    assert bytes_per_token(tokenizer, ["é", "abc", ""]) == 1
    tokenizer = train_tokenizer([TEXT], params(280))
    tokens = len(tokenizer.encode(TEXT)) + len(tokenizer.encode("the é"))
    assert bytes_per_token(tokenizer, [TEXT, "the é"]) == (len(TEXT) + 6) / tokens


def test_an_empty_validation_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="the validation split is empty"):
        bytes_per_token(train_tokenizer([TEXT], params(260)), [])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_long_text_in_parts_gives_the_same_vocabulary(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = TokenizerParams(vocab_size=280, pattern=pattern)
    text = "The cat's 12 mats,  and\n\n the rat - it's flat!\n" * 500
    whole = train_tokenizer([text], params)
    monkeypatch.setattr(bpe, "PART", 100)
    parts = list(bpe._training_text([text], False))
    assert max(map(len, parts)) < 200
    assert "".join(parts) == text
    assert train_tokenizer([text], params).digest == whole.digest


def test_white_space_of_every_kind_is_cut() -> None:
    long = "\t" * 2 * bpe.MAX_WHITE_SPACE + "a" + "\n " * bpe.MAX_WHITE_SPACE
    text = "".join(bpe._training_text([long], False))
    assert text == "\t" * bpe.MAX_WHITE_SPACE + "a" + "\n " * (bpe.MAX_WHITE_SPACE // 2)
