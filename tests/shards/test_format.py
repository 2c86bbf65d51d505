import copy
import json
import re
from pathlib import Path

import pytest

from tiny_lm.shards import format as shards_format
from tiny_lm.shards.format import read_metadata


def edited(values: dict, key: str, value: object) -> dict:
    """A copy with the value at a dotted key replaced; "shards.0" counts in lists."""
    values = copy.deepcopy(values)
    *path, last = key.split(".")
    inner = values
    for name in path:
        inner = inner[int(name) if name.isdigit() else name]
    inner[int(last) if last.isdigit() else last] = value
    return values


@pytest.fixture
def folder(make_shards, tmp_path: Path) -> Path:
    make_shards(["some text " * 300], ["x", "yy"])
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format = 2: must be 1, the only format of this version"),
        ("dtype", "uint32", "dtype = 'uint32': must be uint16 for a vocabulary of 260"),
        ("dtype", "object", "dtype = 'object': must be uint16"),
        ("dtype", ["uint16"], "must be a string"),
        ("vocab_size", 0, "vocab_size = 0: must be between 1 and 2^32"),
        ("vocab_size", 259, "special ids = (256, 257, 258, 259): must be four ids below 259"),
        ("vocab_size", "260", "vocab_size = '260': must be an integer, 0 or more"),
        ("vocab_size", True, "must be an integer"),
        ("vocab_size", 260.0, "must be an integer"),
        ("vocab_size", 2**70, "must be an integer"),
        ("bos_id", 257, "special ids = (256, 257, 257, 259): must be four ids"),
        ("eos_id", -1, "eos_id = '-1': must be an integer, 0 or more"),
        ("tokenizer", "../x", "tokenizer = '../x': must be a SHA-256"),
        ("extra", 1, "metadata must have exactly the keys format, dtype, vocab_size"),
        ("train", None, "train must have exactly the keys tokens, documents"),
        ("train.shards", {}, "train.shards must be a list"),
        ("train.shards", [], "train.tokens = 3002: must be the sum over its shards, 0"),
        ("train.shards.0.file", "../../etc/passwd", "must be train/00000.bin"),
        ("train.shards.0.file", "/etc/passwd", "must be train/00000.bin"),
        ("train.shards.1.file", "train/00000.bin", "train.shards[1].file = 'train/00000.bin': must be train/00001.bin"),
        ("train.shards.0.tokens", 1001, "train.tokens = 3002: must be the sum over its shards, 3003"),
        ("train.shards.0.tokens", 0, "train.shards[0].tokens = 0: must be at least 1"),
        ("train.shards.0.tokens", -1000, "train.shards[0].tokens = '-1000': must be an integer"),
        ("train.shards.0.documents", 2, "train.documents = 1: must be the sum over its shards, 2"),
        ("train.shards.0.sha256", "AB" * 32, "must be a SHA-256"),
        ("train.lengths_sha256", "", "must be a SHA-256"),
        ("train.documents", 0, "train.documents = 0: must be at least 1"),
        ("train.tokens", 1, "train.tokens = 1: must be at least 2 for each document"),
        ("train.bytes", 2999, "train.bytes = 2999: must be 1 to 4 for each of 3000 characters"),
        ("train.characters", 10, "train.bytes = 3000: must be 1 to 4 for each of 10 characters"),
        ("val.tokens", 70, "val.tokens = 70: must be at most one for each of 3 bytes, and two for each document"),
        ("val.document_tokens.mean", float("nan"), "must be a number, 0 or more"),
        ("val.document_tokens.mean", 3.9, "must be around the mean 3.5"),
        ("val.document_tokens.min", 5, "must be around the mean 3.5"),
        ("val.document_characters.max", 0, "must be around the mean 1.5"),
    ],
)
def test_invalid_metadata_is_refused(folder: Path, key: str, value: object, message: str) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), key, value)))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_metadata(folder)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert "`dvc pull`" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"9" * 5000])
def test_metadata_that_is_not_a_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "metadata.json").write_bytes(content)
    with pytest.raises(ValueError, match="metadata.json: (not readable as JSON|the file must have)"):
        read_metadata(folder)


def test_metadata_that_is_too_large_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_format, "_MAX_METADATA", 100)
    with pytest.raises(ValueError, match=r"metadata.json: \d+ bytes, must be at most 100"):
        read_metadata(folder)


def test_missing_shards_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no such file; run `tiny-lm restore shards`"):
        read_metadata(tmp_path)
