"""Any text passes through corpus, tokenizer and shards unchanged, or is refused with a reason."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from corpora import read_corpus
from fake_stage import FakeStage
from hypothesis import given, settings
from hypothesis import strategies as st
from tries import Book

from tiny_lm.runner.verify import verify_corpus, verify_shards, verify_texts
from tiny_lm.shards.stream import TokenStream
from tiny_lm.stages import corpus, shards, tokenizer
from tiny_lm.tokenizer.encode import Tokenizer

trust = settings.get_profile("trust")
DATASET = {
    "source": "local", "path": "source.jsonl", "seed": 0, "validation": "tail", "validation_fraction": 0.3,
    "min_chars": 1, "max_chars": None, "deduplicate": False, "max_train_documents": None, "max_val_documents": None,
    "format": "auto", "glob": "*", "field": "text", "separator": None,
}  # fmt: skip
ODD = [
    "emoji 👩‍👩‍👧‍👦 🇯🇵 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "combining e\u0301 a\u0308\u0323\u0301" + "\u0301" * 500,
    "nul \0 and \x01\x1b[31m\x7f",
    "CRLF\r\n\r\nand \r alone",
    "right to left: שלום עולם مرحبا \u202eoverride\u202c",
    "<bos><eos><pad><unk><|endoftext|> <bos",
    "\ufeffBOM first, \ufeffinside",
    "separators \u2028 \u2029 \x85 \x0b \x0c \x1c\x1d\x1e",
    "\f\f\f",
    "half \ufffd, \uffff, \U0010ffff",
    "zero\u200bwidth\u200d",
    " " * 70_000 + "x",
    "ﬃ ½ ² Ⅻ ٣٤٥ १२३",
    "𝕬𝖓𝖞 𐍈 한국어 ภาษาไทย",
    "\t\t\n\n  \n",
]
special = st.text(st.sampled_from("<bos>e \n\r\u2028\0"), max_size=20)
texts = st.lists(st.one_of(st.text(min_size=1, max_size=60), st.sampled_from(ODD), special), min_size=4, max_size=9)


def round_trip(shard_tokens: int = 1000, **dataset: Any) -> list[str]:
    """The documents decoded from the shards, after the first three stages."""
    stage: Any = FakeStage(
        dataset=DATASET | dataset,
        tokenizer={"vocab_size": 260, "pattern": "gpt4-digits2"},
        shards={"shard_tokens": shard_tokens},
    )
    for module in (corpus, tokenizer, shards):
        module.main(stage)
    loaded, decoded = Tokenizer.load(Path("models/tokenizer")), []
    verify_shards(Path("data/shards"))
    verify_corpus(Path("data/corpus"))
    verify_texts(Path("data/corpus"))
    for split, texts in zip(("train", "val"), read_corpus(), strict=True):
        stream = TokenStream(Path("data/shards"), split)
        found = [loaded.decode(stream.read(start, end)[1:-1]) for start, end in pairwise(stream.document_starts())]
        assert found == texts
        decoded += found
    return decoded


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@trust
@given(documents=texts)
def test_any_text_passes_through_all_stages_unchanged(here: Path, book: Book, documents: list[str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=len(documents) % 2 == 0) for text in documents]
    Path("source.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    kept = sorted(text for text in documents if text.strip())  # filters remove blank documents
    try:
        assert sorted(round_trip(validation="random", validation_fraction=0.5)) == kept
    except ValueError as error:
        assert str(error).startswith("no document")  # noqa: PT017
    book.note("texts through corpus, tokenizer and shards")


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_pass_unchanged_from_a_text_file(text: str, here: Path) -> None:
    text = f"a{text}b" * 3
    Path("source.txt").write_bytes(text.encode())
    assert "".join(round_trip(path="source.txt", field=None)) == text


def test_a_line_of_ten_megabytes_passes_unchanged(here: Path) -> None:
    text = "One line, 10 MB: naïve 🙂 and <eos> 12345. " * 220_000
    assert len(text.encode()) > 10**7
    Path("source.txt").write_text(text, encoding="utf-8")
    assert "".join(round_trip(10**6, path="source.txt", field=None)) == text


@pytest.mark.parametrize("line", ['{"text": "\\ud83d"}', '{"text": "ab\\udc00c"}'])
def test_a_lone_surrogate_is_refused_with_the_line(line: str, here: Path) -> None:
    Path("source.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(ValueError, match=r"^source.jsonl: line 2: field 'text' has a lone surrogate"):
        round_trip()


def test_utf16_is_refused(here: Path) -> None:
    Path("source.txt").write_bytes("fine 🙂".encode("utf-16"))
    with pytest.raises(ValueError, match=r"^source.txt: UTF-16, must be UTF-8; convert it"):
        round_trip(path="source.txt", field=None)
