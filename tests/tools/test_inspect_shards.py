"""`tiny-lm inspect-shards` shows the encoded documents with token boundaries, and reads nothing else."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tiny_lm.shards.format import read_metadata
from tiny_lm.shards.stream import TokenStream
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tools.inspect_shards import main

SHARDS = Path("data/shards")


def texts(documents, tokenizer):
    return [tokenizer.decode(document["ids"][1:-1]) for document in documents]


def test_the_statistics_are_those_of_the_metadata(project, call):
    metadata = read_metadata(SHARDS)
    assert call(main, "--json") == json.loads(json.dumps(asdict(metadata)))
    shown = call(main)
    for split in (metadata.train, metadata.val):
        assert f"{split.tokens:,} tokens, {split.documents:,} documents" in shown
        assert all(shard.file in shown for shard in split.shards)


@pytest.mark.parametrize("option", ["--split=val", "--count=2", "--ids"])
def test_options_of_a_document_need_one(project, option):
    with pytest.raises(ValueError, match="^--split, --count and --ids need --document"):
        main([option])


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_document_is_shown_as_it_was_encoded(project, call, tokenizer, split):
    stream = TokenStream(SHARDS, split)
    every = call(main, "--split", split, "--document", "0", "--count", stream.split.documents, "--json")
    ids = [number for document in every for number in document["ids"]]
    assert ids == stream.read(0, len(stream)).tolist()
    one = call(main, "--split", split, "--document", "5", "--json")
    assert one == every[5:6]
    assert [document["characters"] for document in every] == [len(text) for text in texts(every, tokenizer)]


def test_only_the_tokens_of_the_requested_document_are_read(project, call, monkeypatch):
    read = []
    original = TokenStream.read
    monkeypatch.setattr(TokenStream, "read", lambda self, a, b: read.append((a, b)) or original(self, a, b))
    (document,) = call(main, "--document", "150", "--json")
    assert read == [(document["start"], document["start"] + len(document["ids"]))]
    assert document["start"] > 1000  # not in the first file


def test_special_tokens_are_shown_by_name_and_tokens_with_boundaries(project, call, tokenizer):
    (document,) = call(main, "--document", "3", "--json")
    shown = call(main, "--document", "3", "--color", "never")
    head, body = shown.split("\n", 1)
    assert head.startswith(f"train 3: {len(document['ids'])} tokens from position {document['start']}, ")
    assert body.startswith("<bos>·")
    assert body.rstrip().endswith("·<eos>")
    shown_tokens = body.strip().replace("\n", "·").split("·")
    assert shown_tokens == document["token_texts"]


def test_ids_and_colors_are_shown_on_request(project, call, plain):
    usual = call(main, "--document", "3", "--color", "never")
    colored = call(main, "--document", "3", "--color", "always")
    assert "\x1b[" in colored
    assert plain(colored) == usual.replace("·", "")
    (document,) = call(main, "--document", "3", "--json")
    lines = call(main, "--document", "3", "--ids").splitlines()[1:]
    assert [int(line.split()[0]) for line in lines if line] == document["ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--document", "170"], "--document 170 --count 1: data/shards/train has 170 documents, 0 to 169"),
        (["--document", "169", "--count", "2"], "--document 169 --count 2: data/shards/train has 170 documents"),
        (["--document", "-1"], "--document -1 --count 1: data/shards/train has 170 documents, 0 to 169"),
        (["--document", "one"], "argument --document: invalid int value: 'one'"),
        (["--document", "0", "--count", "0"], "argument --count: '0': must be an amount"),
        (["--split", "test"], "argument --split: invalid choice: 'test'"),
        (["--shards", "nowhere"], "nowhere/metadata.json: there is no such file"),
        (["--document", "0", "--tokenizer", "nowhere"], "nowhere/metadata.json: there is no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(project, arguments, message):
    with pytest.raises(ValueError, match="^.*" + message.replace("(", r"\(")) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_another_tokenizer_is_refused(project, tokenizer):
    Tokenizer(tokenizer.ranks, "gpt2").save(Path("models/tokenizer"))
    with pytest.raises(ValueError, match="data/shards was encoded with tokenizer [0-9a-f]{12}, but models/tokenizer"):
        main(["--document", "0"])


def test_a_truncated_shard_is_named_and_verify_detects_a_changed_byte(project, call):
    assert "all files match their checksums" in call(main, "--verify")
    assert "all files match their checksums" in call(main, "--verify", "--document", "0")
    path = SHARDS / "train/00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(ValueError, match="train/00001.bin: 1998 bytes, must be 2000"):
        main([])
    path.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
    call(main)
    with pytest.raises(ValueError, match="train/00001.bin: checksum mismatch with metadata.json"):
        main(["--verify"])


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1], ids=["zero", "one", "largest"])
def test_lengths_that_do_not_match_the_tokens_are_refused(project, number):
    path = SHARDS / "train/lengths.bin"
    content = path.read_bytes()
    path.write_bytes(content[:24] + number.to_bytes(4, "little") + content[28:])
    with pytest.raises(ValueError, match="document 2 does not start with <bos> .* so the shards are damaged"):
        main(["--document", "2"])
    with pytest.raises(ValueError, match="document 3 does not start with <bos> .* so the shards are damaged"):
        main(["--document", "3"])
