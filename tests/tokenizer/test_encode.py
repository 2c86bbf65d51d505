import base64
import hashlib
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.tokenizer import encode
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS, SPECIAL_TOKENS

SHAKESPEARE = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish? It's 1234 o'clock, he'll say; we've 56 crowns.
    def indented(x):  return  x
"""
TOKENIZERS = {
    name: train_tokenizer([SHAKESPEARE, "   \t  " * 9], TokenizerParams(vocab_size=330, pattern=name))
    for name in PATTERNS
}
every_pattern = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
DEFAULT = TOKENIZERS["gpt4-digits2"]

any_text = st.text(st.characters(exclude_categories=["Cs"]))
spaced_text = st.text(st.sampled_from(" \t\n\r\x0b\x1c\x85\xa0\u2028\u3000a'.1é"), max_size=40)


def chunks(tokenizer: Tokenizer, text: str) -> list[str]:
    """How a pattern splits: a chunk is the longest prefix that can be one token."""
    found = []
    while text:
        length = max(n for n in range(1, len(text) + 1) if starts_with_chunk(tokenizer, text, n))
        found.append(text[:length])
        text = text[length:]
    return found


def with_token(tokenizer: Tokenizer, token: str) -> Tokenizer:
    ranks = {bytes([i]): i for i in range(256)}
    if len(token.encode()) > 1:
        ranks[token.encode()] = 256
    return Tokenizer(ranks, tokenizer.pattern)


def starts_with_chunk(tokenizer: Tokenizer, text: str, length: int) -> bool:
    one = with_token(tokenizer, text[:length])
    ids = one.encode(text)
    return one.decode_bytes(ids[:1]) == text[:length].encode()


@every_pattern
@settings(max_examples=60, deadline=None)
@given(text=any_text)
def test_decoding_restores_every_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.one_of(any_text, st.text(st.sampled_from("<bos>eupadnk/ \n"))), min_size=1, max_size=5))
def test_documents_are_encoded_one_by_one_between_bos_and_eos(texts: list[str]) -> None:
    expected = [i for text in texts for i in (DEFAULT.bos_id, *DEFAULT.encode(text).tolist(), DEFAULT.eos_id)]
    assert DEFAULT.encode_documents(texts).tolist() == expected


@every_pattern
@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_special_token_in_the_text_is_ordinary_text(tokenizer: Tokenizer, token: str) -> None:
    text = f"say {token} twice{token}"
    assert tokenizer.encode(text).max() < len(tokenizer.ranks)
    stream = tokenizer.encode_documents([text, "x"])
    special = stream[stream >= len(tokenizer.ranks)].tolist()
    assert special == [tokenizer.bos_id, tokenizer.eos_id] * 2


def test_special_tokens_follow_the_base_vocabulary() -> None:
    assert (DEFAULT.pad_id, DEFAULT.eos_id, DEFAULT.bos_id, DEFAULT.unk_id) == (326, 327, 328, 329)
    assert DEFAULT.vocab_size == 330
    assert DEFAULT.decode([DEFAULT.bos_id, *DEFAULT.encode("hi"), DEFAULT.eos_id]) == "<bos>hi<eos>"


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("gpt4-digits2", "12345", ["12", "34", "5"]),
        ("llama3", "12345", ["123", "45"]),
        ("gpt2", "12345", ["12345"]),
        ("gpt4-digits2", "so\n\n  it's", ["so", "\n\n", " ", " it", "'s"]),
        ("gpt2", "so\n\n  it's", ["so", "\n\n ", " it", "'s"]),
        ("gpt4-digits2", "IT'LL (do)", ["IT", "'LL", " (", "do", ")"]),
        ("gpt2", "it'LL", ["it", "'", "LL"]),
        ("gpt4-digits2", "a.\n\nb", ["a", ".\n\n", "b"]),
        ("gpt4-digits2", "a \n  ", ["a", " \n", "  "]),
    ],
)
def test_patterns_split_as_documented(pattern: str, text: str, expected: list[str]) -> None:
    assert chunks(TOKENIZERS[pattern], text) == expected


def with_full_pattern(tokenizer: Tokenizer, text: str) -> list[int]:
    pattern, ranks = PATTERNS[tokenizer.pattern], tokenizer.ranks
    encoding = tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_ordinary(text)


@every_pattern
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(spaced_text, any_text), min_size=1, max_size=4), part=st.sampled_from([1, 2, 3, 1000]))
def test_ids_equal_tiktoken_with_the_full_pattern(tokenizer: Tokenizer, texts: list[str], part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "PART", part)
        alone = [tokenizer.encode(text).tolist() for text in texts]
        stream = tokenizer.encode_documents(texts).tolist()
    assert alone == [with_full_pattern(tokenizer, text) for text in texts]
    assert stream == [i for ids in alone for i in (tokenizer.bos_id, *ids, tokenizer.eos_id)]


def test_all_white_space_of_unicode_is_recognized() -> None:
    for space in filter(str.isspace, map(chr, range(sys.maxunicode))):
        two = with_token(DEFAULT, space * 2)  # used if the pattern makes a chunk of two
        assert two.encode(space * 3 + "x").tolist() == with_full_pattern(two, space * 3 + "x"), f"{ord(space):04X}"


@every_pattern
@pytest.mark.parametrize(("space", "end"), [(" ", "end"), (" ", ""), ("\n", "end"), (" ", "\nend")])
def test_white_space_that_is_too_long_for_the_regex_engine_is_encoded(
    tokenizer: Tokenizer, space: str, end: str
) -> None:
    text = "start" + space * 1_000_000 + end
    stream = tokenizer.encode_documents(["a", text])
    assert stream[0] == stream[3] == tokenizer.bos_id
    assert tokenizer.decode_bytes(stream[4:-1]) == text.encode()
    assert np.array_equal(stream[4:-1], tokenizer.encode(text))


@pytest.mark.parametrize("unit", ["a", "!", "7", "é", "ab ", "'s", "\u200d"])
def test_decoding_restores_a_line_of_a_megabyte(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert DEFAULT.decode(DEFAULT.encode(text)) == text


@pytest.mark.parametrize("length", [499, 500, 501, 2000])
def test_long_chunks_are_merged_like_short_ones(length: int) -> None:
    """tiktoken has another algorithm for chunks of 500 bytes and more."""
    text = "speaksrathersp" * (length // 14) + "s" * (length % 14)
    parts = [bytes([byte]) for byte in text.encode()]
    while True:
        ranked = [(DEFAULT.ranks.get(a + b, 10**9), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, i = min(ranked)
        if rank == 10**9:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    assert DEFAULT.encode(text).tolist() == [DEFAULT.ranks[part] for part in parts]


def test_a_lone_surrogate_is_refused_with_the_position() -> None:
    with pytest.raises(ValueError, match=r"^character 2 of the text is a lone surrogate \(U\+D83D\); remove"):
        DEFAULT.encode("ab\ud83d")
    with pytest.raises(ValueError, match="lone surrogate"):
        DEFAULT.encode_documents(["fine", "ab\ud83d"])


@given(ids=st.lists(st.integers(0, DEFAULT.vocab_size - 1)))
def test_every_sequence_of_ids_decodes(ids: list[int]) -> None:
    assert DEFAULT.decode(ids) == DEFAULT.decode_bytes(np.array(ids, np.uint16)).decode(errors="replace")


@pytest.mark.parametrize("bad", [-1, 330, 2**40])
def test_an_id_out_of_range_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=f"^token id {bad}: must be between 0 and 329$"):
        DEFAULT.decode([5, bad])


@every_pattern
def test_a_round_trip_keeps_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.ranks, loaded.pattern, loaded.digest) == (tokenizer.ranks, tokenizer.pattern, tokenizer.digest)
    assert (loaded.encode(SHAKESPEARE) == tokenizer.encode(SHAKESPEARE)).all()
    loaded.save(tmp_path / "again")
    for name in ("ranks.tiktoken", "metadata.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "metadata.json", "ranks.tiktoken"]


def test_tiktoken_reads_the_ranks_file(tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    DEFAULT.save(tmp_path)
    assert load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken")) == DEFAULT.ranks


def test_the_metadata_is_readable(tmp_path: Path) -> None:
    DEFAULT.save(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["pattern"] == "gpt4-digits2"
    assert metadata["special_tokens"] == {"<pad>": 326, "<eos>": 327, "<bos>": 328, "<unk>": 329}
    assert "speak" in " ".join(metadata["examples"]["longest"])


def test_the_digest_depends_on_ranks_and_pattern() -> None:
    fewer = dict(list(DEFAULT.ranks.items())[:-1])
    digests = {t.digest for t in TOKENIZERS.values()} | {Tokenizer(fewer, "gpt2").digest}
    assert len(digests) == 4
    assert Tokenizer(DEFAULT.ranks, "gpt2").digest != Tokenizer(DEFAULT.ranks, "llama3").digest


def _lines(edit) -> bytes:
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in DEFAULT.ranks.items()]
    return b"\n".join(edit(lines)) + b"\n"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:300], b"!! 300"], "line 301: must be a new token in base64 and its rank 300"),
        (lambda lines: [*lines[:300], lines[299][:-3] + b"300"], "line 301: must be a new token"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1: must be a new token in base64 and its rank 0"),
        (lambda lines: [*lines, b" 326"], "line 327: must be a new token"),
        (lambda lines: [*lines, b""], "line 327: must be a new token"),
        (lambda lines: [*lines, b"YWJjZGU= 326.0"], "line 327: must be a new token"),
        (lambda lines: lines[:255], "must have all 256 single bytes"),
        (lambda lines: lines[:-1], "vocab_size = 330: must be 329"),
    ],
)
def test_invalid_ranks_are_refused(edit, message: str, tmp_path: Path) -> None:
    DEFAULT.save(tmp_path)
    text = _lines(edit)
    (tmp_path / "ranks.tiktoken").write_bytes(text)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    metadata["ranks_sha256"] = hashlib.sha256(text).hexdigest()
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "(a+)+$"}, r"pattern = '\(a\+\)\+\$': must be one of gpt4-digits2, llama3, gpt2"),
        ({"pattern": ["gpt2"]}, "must be one of gpt4-digits2"),
        ({"vocab_size": 331}, "vocab_size = 331: must be 330, after the 326 tokens of ranks.tiktoken"),
        ({"special_tokens": {"<eos>": 0}}, "special_tokens = {'<eos>': 0}: must be"),
        ({"ranks_sha256": "0" * 64}, "checksum mismatch: .*ranks.tiktoken does not match .*metadata.json"),
        ({"more": 1}, "must have exactly the keys examples, pattern, ranks_sha256, special_tokens, vocab_size"),
    ],
)
def test_invalid_metadata_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    DEFAULT.save(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text()) | change
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, '"x"', "\x00"])
def test_metadata_that_is_not_a_json_object_is_refused(content: str, tmp_path: Path) -> None:
    DEFAULT.save(tmp_path)
    (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match="metadata.json: (not readable as JSON|must have exactly the keys)"):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DEFAULT.save(tmp_path)
    monkeypatch.setattr(encode, "_MAX_RANKS", 1000)
    with pytest.raises(ValueError, match=r"ranks.tiktoken: \d+ bytes, must be at most 1000"):
        Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata.json: there is no such file; `tiny-lm restore tokenizer`"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_white_space_at_the_end_of_documents_is_encoded_as_with_the_full_pattern(pattern: str) -> None:
    """With tokens of only white space, which training on a small text does not give."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"  ": 256, b"\n\n": 257, b" \n": 258}
    tokenizer = Tokenizer(ranks, pattern)
    bare = tiktoken.Encoding("bare", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    texts = ["a  ", "b", "\n\nb", "\n\n", "  ", "a \n\n  b", "", "a\n\n\n", " \n b"]
    expected = [[tokenizer.bos_id, *bare.encode_ordinary(text), tokenizer.eos_id] for text in texts]
    assert tokenizer.encode_documents(texts).tolist() == [number for ids in expected for number in ids]
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text).tolist() == ids[1:-1]


def test_a_lone_surrogate_far_into_a_text_is_refused_with_the_position() -> None:
    for position in (3 * encode.PART + 7, encode.PART + 1):
        for text in ("word " * (position // 5 + 1), "\u3042" * (position + 1)):  # with and without positions to cut at
            broken = text[:position] + "\ud800" + text[position:]
            with pytest.raises(ValueError, match=rf"^character {position} of the text is a lone surrogate \(U\+D800\)"):
                DEFAULT.encode(broken)
