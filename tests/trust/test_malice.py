"""Malicious files: each is refused in one line, before it runs code or makes us allocate the memory that it claims.

Every case runs in a process that is limited to 20 seconds of CPU time and 256 MB of additional memory.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tiny_lm.corpus.readers import read_file
from tiny_lm.documents import DocumentWriter
from tiny_lm.export.card import read_metrics
from tiny_lm.io.params import read_yaml
from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.runner.dvc_lock import Output
from tiny_lm.runner.restore import intact_files
from tiny_lm.runner.verify import verify_corpus, verify_shards, verify_texts
from tiny_lm.shards.stream import TokenStream
from tiny_lm.tokenizer.encode import Tokenizer

RAN = Path("a-pickle-ran")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (RAN,))


@pytest.fixture
def here(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "models", "results"):
        shutil.copytree(artifacts / name, tmp_path / name)
    return tmp_path


def edit(path: Path, key: str, value: object) -> None:
    values = json.loads(path.read_bytes())
    inner = values
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text(json.dumps(values))


def open_corpus() -> None:
    verify_corpus(Path("data/corpus"))
    verify_texts(Path("data/corpus"))


READERS: dict[str, Callable[[], object]] = {
    "data/corpus/metadata.json": open_corpus,
    "models/tokenizer/metadata.json": lambda: Tokenizer.load(Path("models/tokenizer")),
    "data/shards/metadata.json": lambda: verify_shards(Path("data/shards")),
    "models/checkpoint/config.json": lambda: load_checkpoint(Path("models/checkpoint")),
    "results/evaluate/metrics.json": lambda: read_metrics(Path("results/evaluate/metrics.json")),
}


@pytest.mark.parametrize("name", [*READERS, "models/tokenizer/ranks.tiktoken"])
def test_a_gigabyte_of_metadata_is_not_read(name: str, here: Path, confined: Any) -> None:
    with (here / name).open("r+b") as file:
        file.truncate(1 << 30)
    message = confined(READERS.get(name, READERS["models/tokenizer/metadata.json"]))
    assert str(1 << 30) in message
    assert name in message


@pytest.mark.parametrize(
    "content",
    ["[" * 500_000, '{"a":' * 500_000, "9" * 100_000, '{"a": ' + "9" * 5000 + "}", "NaN", "-Infinity", "[NaN, 1e999]",
     '"\\ud800"', "\0"],
    ids=["lists", "objects", "digits", "digits-inside", "nan", "infinity", "numbers", "surrogate", "nul"],
)  # fmt: skip
@pytest.mark.parametrize("name", READERS)
def test_malicious_json_is_refused(name: str, content: str, here: Path, confined: Any) -> None:
    Path(name).write_text(content)
    assert name in confined(READERS[name])


@pytest.mark.parametrize("value", [10**4000, 2**63, -1, 1e308, float("nan"), float("inf"), True, None, "1", [1], {}])
@pytest.mark.parametrize(
    "key",
    ["data/corpus/metadata.json splits.val.documents", "data/corpus/metadata.json splits.train.bytes",
     "data/shards/metadata.json vocab_size", "data/shards/metadata.json train.tokens",
     "data/shards/metadata.json val.shards.0.tokens", "data/shards/metadata.json val.documents",
     "models/tokenizer/metadata.json vocab_size", "models/checkpoint/config.json vocab_size",
     "models/checkpoint/config.json model.d_model", "models/checkpoint/config.json model.n_layers",
     "models/checkpoint/config.json model.context_length"],
)  # fmt: skip
def test_absurd_numbers_are_refused(key: str, value: object, here: Path, confined: Any) -> None:
    name, key = key.split()
    edit(here / name, key, value)
    as_shown = re.sub(r"\.(\d+)", r"[\1]", key)
    named = f"{name}: {as_shown} = "
    too_small = "models/checkpoint/model.safetensors: 20408 bytes is too small for the model that config.json describes"
    assert confined(READERS[name]).startswith((named, too_small) if value in (10**4000, 2**63) else named)


@pytest.mark.parametrize(
    "file", ["../../secret", "/etc/passwd", "train/../../x.bin", "train/00000.bin\0", "TRAIN/00000.bin"]
)
def test_shards_outside_their_folder_are_refused(file: str, here: Path, confined: Any) -> None:
    edit(here / "data/shards/metadata.json", "train.shards.0.file", file)
    assert "must be train/00000.bin" in confined(lambda: TokenStream(Path("data/shards"), "train"))


def test_shard_metadata_that_claims_more_tokens_than_the_file_has_is_refused(here: Path, confined: Any) -> None:
    path, huge = here / "data/shards/metadata.json", 2**60
    edit(path, "train.tokens", huge)
    edit(path, "train.bytes", huge)
    edit(path, "train.characters", huge)
    values = json.loads(path.read_bytes())
    documents = values["train"]["documents"]
    values["train"]["shards"] = values["train"]["shards"][:1]
    values["train"]["shards"][0] |= {"tokens": huge, "documents": documents}
    mean = round(huge / documents, 3)
    values["train"] |= {
        key: {"min": 0, "mean": mean, "max": huge} for key in ("document_tokens", "document_characters")
    }
    path.write_text(json.dumps(values))
    assert f"must be {2 * huge};" in confined(READERS["data/shards/metadata.json"])


def test_a_tokenizer_with_its_own_pattern_is_refused(here: Path, confined: Any) -> None:
    edit(here / "models/tokenizer/metadata.json", "pattern", "(a+)+$" * 10_000)
    message = confined(READERS["models/tokenizer/metadata.json"])
    assert "must be one of gpt4-digits2, llama3, gpt2" in message


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Bomb()),
        safetensors(b"{}", length=2**60),
        safetensors(b"{}", length=2**63 + 5),
        safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
        safetensors({"a": entry([2], 8, 0)}, bytes(8)),
        safetensors({"a": entry([2**30, 2**30], 0, 2**62)}, bytes(8)),
        safetensors({"a": entry([2**62, 4], 0, 0)}, b""),
        safetensors({"a": entry([2], 2**64 - 8, 2**64 - 1)}, bytes(8)),
        safetensors({"token_emb.weight": entry([2**40, 0], 0, 0)}, b""),
        safetensors({"a": entry([2], 0, 8, "OBJECT")}, bytes(8)),
        safetensors(b'{"a":' * 100_000),
        safetensors(b"\xff" * 100),
        safetensors({"__metadata__": {"a": {"b": 1}}}),
        b"",
        b"\0" * 7,
        b"\0" * 8,
    ],
    ids=["pickle", "header-2^60", "header-2^63", "overlapping", "shared", "backwards", "exabytes", "overflow", "beyond",
         "empty-axis", "dtype", "nested", "not-utf8", "metadata", "empty", "seven", "zeros"],
)  # fmt: skip
def test_invalid_weights_are_refused_and_run_no_code(content: bytes, here: Path, confined: Any) -> None:
    path = here / "models/checkpoint/model.safetensors"
    path.write_bytes(content)
    edit(here / "models/checkpoint/config.json", "weights_sha256", hashlib.sha256(content).hexdigest())
    assert "model.safetensors: " in confined(READERS["models/checkpoint/config.json"])
    assert not RAN.exists()


def test_a_torch_file_with_the_name_of_the_weights_runs_no_code(here: Path, confined: Any) -> None:
    torch.save({"a": Bomb()}, here / "models/checkpoint/model.safetensors")
    assert "model.safetensors: " in confined(READERS["models/checkpoint/config.json"])
    assert not RAN.exists()


def update_checksum(path: Path) -> None:
    """Puts the file's checksum into the metadata, as an attacker would."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(path.parents[1] / "metadata.json", f"splits.{path.parent.name}.files.0.file_sha256", digest)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_a_parquet_footer_that_claims_2_to_the_60_rows_is_refused(here: Path, confined: Any) -> None:
    path = here / "data/corpus/val/00000.parquet"
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    claimed = footer.replace(b"\x16\x06", b"\x16" + varint(2**61))  # Thrift fields with the value 3, in zigzag encoding
    assert len(claimed) > len(footer) + 10
    path.write_bytes(data[: -8 - size] + claimed + struct.pack("<I", len(claimed)) + b"PAR1")
    update_checksum(path)
    assert "val/00000.parquet: " in confined(READERS["data/corpus/metadata.json"])
    edit(here / "data/corpus/metadata.json", "splits.val.documents", 2**60)
    edit(here / "data/corpus/metadata.json", "splits.val.files.0.documents", 2**60)
    assert "val/00000.parquet: " in confined(READERS["data/corpus/metadata.json"])
    assert "val/00000.parquet: " in confined(lambda: list(read_file(path, "parquet", "text", None)))


def test_a_parquet_decompression_bomb_is_refused(here: Path, confined: Any) -> None:
    """512 copies of one megabyte, stored once in a dictionary: 60 KB on disk."""
    schema = pa.schema([("text", pa.large_string())])
    path, rows = here / "data/corpus/val/00000.parquet", pa.array(["x" * 2**20] * 512, pa.large_string())
    pq.write_table(pa.table([rows], schema=schema), path, compression="zstd", dictionary_pagesize_limit=2**30)
    assert path.stat().st_size < 10**6
    edit(here / "data/corpus/metadata.json", "splits.val.documents", 512)
    edit(here / "data/corpus/metadata.json", "splits.val.files.0.documents", 512)
    update_checksum(path)
    del rows
    assert "val/00000.parquet: " in confined(READERS["data/corpus/metadata.json"])


def test_a_pickle_in_a_parquet_type_is_not_run(here: Path, confined: Any) -> None:
    bad = pa.field("text", pa.large_string(), metadata={
        "ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Bomb()),
    })  # fmt: skip
    path, data = here / "data/corpus/val/00000.parquet", io.BytesIO()
    pq.write_table(pa.table([pa.array(["a"], pa.large_string())], schema=pa.schema([bad])), data)
    path.write_bytes(data.getvalue())
    update_checksum(path)
    assert "val/00000.parquet: " in confined(READERS["data/corpus/metadata.json"])
    list(read_file(path, "parquet", "text", None))
    assert not RAN.exists()


@pytest.mark.parametrize(
    "line", ["[" * 500_000, '{"text": ' + "9" * 5000 + "}", '{"text": "\\udc00"}', '{"text": NaN}']
)
def test_malicious_lines_of_json_are_refused(line: str, here: Path, confined: Any) -> None:
    Path("a.jsonl").write_text(line)
    assert "a.jsonl: line 1: " in confined(lambda: list(read_file(Path("a.jsonl"), "jsonl", "text", None)))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(30)),
        "a: &a {b: *a}",
        "[" * 100_000,
        "{a: " * 100_000,
        "a: !!python/object/apply:os.system [touch a-pickle-ran]",
        "a: !!python/name:os.system",
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!int ''",
        "a: " + "9" * 5000,
        "? [a]\n: b",
        "a: \0",
        "--- a\n--- b",
    ],
    ids=[f"case-{i}" for i in range(13)],
)  # fmt: skip
def test_malicious_yaml_is_refused_and_runs_no_code(text: str, here: Path, confined: Any) -> None:
    Path("params.yaml").write_text(text)
    assert confined(lambda: read_yaml(Path("params.yaml"))).startswith("params.yaml: ")
    assert not RAN.exists()


# What `tiny-lm restore` restores from a cache that a remote has filled


def cache(here: Path, content: bytes, suffix: str = "") -> str:
    """Adds an object to the cache; returns its checksum."""
    digest = hashlib.md5(content).hexdigest() + suffix
    path = here / "cache" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


@pytest.mark.parametrize("relpath", ["../../escaped", "/escaped", "a/../../../escaped", "", ".", "..", None, 5, ["a"]])
def test_a_list_with_a_path_outside_its_folder_is_refused(relpath: object, here: Path, confined: Any) -> None:
    inner = cache(here, b"escaped")
    listing = cache(here, json.dumps([{"md5": inner, "relpath": relpath}]).encode(), ".dir")
    message = confined(lambda: intact_files(Output("results/plots", listing, "evaluate"), here / "cache"))
    assert "not a list of the files in results/plots" in message
    assert not list(here.rglob("escaped"))


@pytest.mark.parametrize("md5", ["../../../etc/passwd", "ab/../../x", "", "0" * 31, "0" * 32 + ".dir/x", None, 5])
def test_a_checksum_that_is_a_path_is_refused(md5: object, here: Path, confined: Any) -> None:
    message = confined(lambda: intact_files(Output("results/plots", md5, "evaluate"), here / "cache"))
    assert "not a checksum of DVC's" in message
    listing = cache(here, json.dumps([{"md5": md5, "relpath": "a"}]).encode(), ".dir")
    message = confined(lambda: intact_files(Output("results/plots", listing, "evaluate"), here / "cache"))
    assert "not a checksum of DVC's" in message


def test_an_object_that_does_not_match_its_checksum_is_deleted_and_not_restored(here: Path, confined: Any) -> None:
    digest = cache(here, b"recorded")
    (here / "cache" / digest[:2] / digest[2:]).write_bytes(b"something else")
    assert not intact_files(Output("results/a.json", digest, "evaluate"), here / "cache")
    assert not Path("results/a.json").exists()
    assert not (here / "cache" / digest[:2] / digest[2:]).exists()  # so that DVC does not take it either


def test_no_shared_file_is_a_pickle(here: Path) -> None:
    """By content: no file starts like a pickle, or like a zip file, the format of torch."""
    files = [path for name in ("data", "models", "results") for path in (here / name).rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        head = path.read_bytes()[:4]
        assert not head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"))
        assert path.suffix in (".json", ".parquet", ".tiktoken", ".bin", ".safetensors", ".yaml", ".txt")


def test_a_token_of_30_megabytes_that_the_metadata_does_not_count_is_refused(here: Path, confined: Any) -> None:
    path = here / "models/tokenizer/ranks.tiktoken"
    text = path.read_bytes() + base64.b64encode(bytes(30 << 20)) + b" 266\n"
    path.write_bytes(text)
    edit(here / "models/tokenizer/metadata.json", "ranks_sha256", hashlib.sha256(text).hexdigest())
    assert "must be 271, after the 267 tokens of ranks.tiktoken" in confined(READERS["models/tokenizer/metadata.json"])


def test_the_writer_refuses_text_that_it_could_not_read(here: Path) -> None:
    with pytest.raises(ValueError, match="lone surrogate"), DocumentWriter(here / "x.parquet") as writer:
        writer.write("\ud800")
