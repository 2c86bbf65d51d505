"""Artifacts are not trusted: damage is found when a file is opened, and reported with the remedy."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from corpora import read_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from tries import Book

from tiny_lm.compare import revisions
from tiny_lm.compare.comparison import LOSSES
from tiny_lm.compare.statistics import effective_documents
from tiny_lm.corpus.readers import Format, read_file
from tiny_lm.documents import FileMetadata, SplitMetadata
from tiny_lm.export.card import read_metrics
from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.runner.dvc_lock import list_folder, list_md5, recorded_outputs
from tiny_lm.runner.inputs import check_paths
from tiny_lm.runner.verify import verify_corpus, verify_shards, verify_texts
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tools import check, compare

trust = settings.get_profile("trust")


def open_corpus(folder: Path) -> list[list[str]]:
    verify_corpus(folder)
    return read_corpus(folder)


def open_and_verify_corpus(folder: Path) -> None:
    open_corpus(folder)
    verify_texts(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "data/corpus": open_corpus,
    "models/tokenizer": Tokenizer.load,
    "data/shards": verify_shards,
    "models/checkpoint": load_checkpoint,
    "results/evaluate": lambda folder: read_metrics(folder / "metrics.json"),
}
CHECKSUMMED = [
    "data/corpus/train/00000.parquet", "data/corpus/val/00000.parquet",
    "models/tokenizer/ranks.tiktoken", "data/shards/train/00000.bin", "data/shards/train/00001.bin",
    "data/shards/train/lengths.bin", "data/shards/val/00000.bin", "data/shards/val/lengths.bin",
    "models/checkpoint/model.safetensors",
]  # fmt: skip
JSON = [
    "data/corpus/metadata.json", "models/tokenizer/metadata.json", "data/shards/metadata.json",
    "models/checkpoint/config.json", "results/evaluate/metrics.json",
]  # fmt: skip


def reader(name: str) -> tuple[Callable[[Path], object], str]:
    return next((read, folder) for folder, read in READERS.items() if name.startswith(folder))


@contextlib.contextmanager
def content(path: Path, data: bytes) -> Any:
    """Replaces the content of a file until the `with` block ends."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def refusal(read: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        read(folder)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    assert "`tiny-lm restore" in message
    assert "dvc repro" in message
    return message


def test_the_artifacts_are_valid(artifacts: Path) -> None:
    for folder, read in READERS.items():
        read(artifacts / folder)


@pytest.mark.parametrize("name", [*CHECKSUMMED, *JSON])
def test_a_file_truncated_by_a_byte_is_named(name: str, artifacts: Path) -> None:
    path = artifacts / name
    read, folder = reader(name)
    cut = -2 if name in JSON else -1  # a JSON file without its last newline is still complete
    with content(path, path.read_bytes()[:cut]):
        assert str(path) in refusal(read, artifacts / folder)


@pytest.mark.parametrize("name", CHECKSUMMED)
@trust
@given(data=st.data())
def test_any_damage_to_a_file_with_a_checksum_is_refused(
    name: str, artifacts: Path, book: Book, strategies: Any, data: st.DataObject
) -> None:
    path = artifacts / name
    read, folder = reader(name)
    with content(path, data.draw(strategies.damaged(path.read_bytes()))):
        refusal(read, artifacts / folder)
    book.note("damage to a file with a checksum")


@pytest.mark.parametrize("name", JSON)
@trust
@given(data=st.data())
def test_damaged_metadata_is_a_value_error_or_nothing(
    name: str, artifacts: Path, book: Book, strategies: Any, data: st.DataObject
) -> None:
    path = artifacts / name
    read, folder = reader(name)
    valid = path.read_bytes()
    damaged = data.draw(
        st.one_of(
            strategies.damaged(valid),
            strategies.edited(json.loads(valid)).map(lambda value: json.dumps(value).encode()),
            st.binary(max_size=200),
            strategies.anything.map(lambda value: json.dumps(value).encode()),
        )
    )
    with content(path, damaged):
        try:
            read(artifacts / folder)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) < 3000  # noqa: PT017
    book.note("damage to metadata")


@pytest.mark.parametrize(
    "key",
    ["tokens", "documents", "characters", "bytes", "lengths_sha256", "document_tokens.min", "document_tokens.max",
     "document_characters.min", "document_characters.max", "shards.0.sha256", "shards.0.documents"],
)  # fmt: skip
@pytest.mark.parametrize("split", ["train", "val"])
def test_shard_metadata_that_contradicts_the_files_is_refused(split: str, key: str, artifacts: Path) -> None:
    path = artifacts / "data/shards/metadata.json"
    values = json.loads(path.read_bytes())
    inner = values[split]
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for parent in parents:
        inner = inner[parent]
    inner[last] = "0" * 64 if isinstance(inner[last], str) else inner[last] + (-1 if key.endswith("min") else 1)
    with content(path, json.dumps(values).encode()):
        refusal(verify_shards, path.parent)


@pytest.mark.parametrize(
    "change", [{"bos_id": 267, "eos_id": 268}, {"bos_id": 3}, {"eos_id": 3}, {"vocab_size": 2**17}]
)
def test_special_ids_and_a_vocabulary_that_contradict_the_files_are_refused(change: dict, artifacts: Path) -> None:
    path = artifacts / "data/shards/metadata.json"
    with content(path, json.dumps(json.loads(path.read_bytes()) | change).encode()):
        refusal(verify_shards, path.parent)


@pytest.mark.parametrize("key", ["documents", "characters", "bytes", "sha256", "file_sha256"])
def test_corpus_metadata_that_contradicts_the_files_is_refused(key: str, artifacts: Path) -> None:
    path = artifacts / "data/corpus/metadata.json"
    values = json.loads(path.read_bytes())
    values["splits"]["val"]["files"][0][key] = "0" * 64 if "sha256" in key else 1
    for name, other in asdict(SplitMetadata.of([FileMetadata(**values["splits"]["val"]["files"][0])])).items():
        values["splits"]["val"][name] = other
    with content(path, json.dumps(values).encode()):
        assert "val/00000.parquet" in refusal(open_and_verify_corpus, path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": 4}, "splits.val.documents = 4: must be 3, as in its files"),
        ({"sha256": "0" * 64}, "splits.val.sha256"),
        ({"files": []}, "splits.val.documents = 3: must be 0"),
        ({"file": "../train/00000.parquet"}, "must be val/00000.parquet"),
        ({"file": "val/00001.parquet"}, "must be val/00000.parquet"),
    ],
)
def test_corpus_metadata_that_contradicts_itself_is_refused(change: dict, message: str, artifacts: Path) -> None:
    path = artifacts / "data/corpus/metadata.json"
    values = json.loads(path.read_bytes())
    (values["splits"]["val"]["files"][0] if "file" in change else values["splits"]["val"]).update(change)
    with content(path, json.dumps(values).encode()):
        assert message in refusal(open_corpus, path.parent)


@pytest.mark.parametrize(
    "table",
    [{"text": pa.array([1, 2, 3])}, {"text": pa.array(["a", "b", "c"])}, {"body": pa.array(["a"], pa.large_string())},
     {"text": pa.array(["a", None], pa.large_string())}, {"text": pa.array([["a"]])}],
    ids=["numbers", "short-strings", "other-name", "null", "lists"],
)  # fmt: skip
def test_a_corpus_with_other_columns_is_refused(table: dict, artifacts: Path) -> None:
    path, data = artifacts / "data/corpus/val/00000.parquet", io.BytesIO()
    pq.write_table(pa.table(table), data)
    metadata = path.parents[1] / "metadata.json"
    values = json.loads(metadata.read_bytes())
    values["splits"]["val"]["files"][0]["file_sha256"] = hashlib.sha256(data.getvalue()).hexdigest()
    with content(path, data.getvalue()), content(metadata, json.dumps(values).encode()):
        assert str(path) in refusal(open_corpus, path.parents[1])


def test_metrics_that_contradict_each_other_are_refused(artifacts: Path) -> None:
    path = artifacts / "results/evaluate/metrics.json"
    for bad in ('{"loss": 1.5, "perplexity": 2.7}', '{"loss": NaN}', '{"loss": "1"}', "[1]", '{"loss": 1e999}'):
        with content(path, bad.encode()):
            assert str(path) in refusal(read_metrics, path)


def lock_of(folder: Path, outs: list[str]) -> dict[str, Any]:
    """dvc.lock as DVC would write it: folders by the checksum of their list."""
    entries = []
    for out in outs:
        path = folder / out
        if path.is_dir():
            digest = list_md5(list_folder(path))
        else:
            digest = hashlib.md5(path.read_bytes()).hexdigest()
        entries.append({"path": out, "md5": digest})
    return {"schema": "2.0", "stages": {"make": {"cmd": "x", "outs": entries}}}


OUTS = ["data/corpus", "models/tokenizer", "data/shards", "models/checkpoint", "results/evaluate/metrics.json"]


@pytest.fixture(scope="module")
def locked(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locked") / "work"
    shutil.copytree(artifacts, folder)
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock_of(folder, OUTS)))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": {"cmd": "x", "outs": OUTS[:4]}}}))
    return folder


@pytest.fixture
def here(locked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(locked)
    return locked


@trust
@given(data=st.data())
def test_every_changed_byte_is_found_against_dvc_lock(
    locked: Path, book: Book, strategies: Any, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*CHECKSUMMED, *JSON]))
    path = locked / name
    before = Path.cwd()
    os.chdir(locked)
    try:
        with content(path, data.draw(strategies.damaged(path.read_bytes()))), pytest.raises(ValueError) as error:
            check.main([])
    finally:
        os.chdir(before)
    out = next(out for out in OUTS if name.startswith(out))
    assert out in str(error.value)
    assert "`tiny-lm restore make` restores it, `dvc repro make` rebuilds it" in str(error.value)
    book.note("damage to a file that dvc.lock records")


def test_outputs_match_dvc_lock_unless_a_file_is_missing_or_added(here: Path, capsys: Any) -> None:
    check.main([])
    assert capsys.readouterr().out == "5 outputs match dvc.lock\n"
    check_paths([Path("data/raw")], recorded_outputs(Path("dvc.lock")))  # which no stage writes
    (here / "data/shards/more.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^data/shards: not what dvc.lock records; `tiny-lm restore make`"):
        check.main([])
    (here / "data/shards/more.bin").unlink()
    (here / "models/tokenizer").rename(here / "elsewhere")
    with pytest.raises(ValueError, match=r"^models/tokenizer: no such file or folder"):
        check.main(["models/tokenizer"])
    (here / "elsewhere").rename(here / "models/tokenizer")


def test_the_file_is_named_if_the_list_is_in_the_cache(here: Path) -> None:
    digest = next(out.md5 for out in recorded_outputs(Path("dvc.lock")) if out.path == "data/shards")
    cached = here / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_text(json.dumps(list_folder(Path("data/shards")), sort_keys=True))
    path = here / "data/shards/val/00000.bin"
    with (
        content(path, path.read_bytes()[:-1]),
        pytest.raises(ValueError, match=r"^data/shards/val/00000.bin: not what"),
    ):
        check.main([])


# Text of users, and the files that `tiny-lm compare` reads

SOURCES: dict[Format, bytes] = {
    "text": "one--two 🙂\r\n--three".encode(),
    "jsonl": b'{"text": "a\\u00e9"}\n\n{"text": null, "n": 1}\r\n{"text": "b"}',
    "csv": b'n,text\r\n1,"a, ""b""\nc"\r\n2,d\r\n',
    "parquet": b"",
}


@pytest.mark.parametrize("kind", SOURCES)
@trust
@given(data=st.data())
def test_damaged_sources_are_read_or_refused(
    kind: Format, artifacts: Path, book: Book, strategies: Any, data: st.DataObject
) -> None:
    valid = SOURCES[kind]
    if kind == "parquet":
        valid = (artifacts / "data/corpus/val/00000.parquet").read_bytes()
    file = artifacts / f"source.{kind}"
    file.write_bytes(data.draw(st.one_of(strategies.damaged(valid), st.binary(max_size=100))))
    try:
        assert all(isinstance(text, str) for text in read_file(file, kind, "text", "--"))
    except ValueError as error:
        assert str(file) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    book.note("damage to a source")


def table_of_losses() -> bytes:
    out = io.StringIO()
    rows = csv.writer(out, delimiter="\t", lineterminator="\n")
    rows.writerow(compare.COLUMNS)
    rows.writerows([[i, 5 + i, 20 + i, 21 + i, 7.25 + i, 0.5] for i in range(4)])
    return out.getvalue().encode()


LOCK = {
    "schema": "2.0",
    "stages": {
        "train": {"cmd": "x", "deps": [{"path": "src/a.py", "md5": "0" * 32}],
                  "params": {"params.yaml": {"train.seed": 1, "model": {"n_heads": 4}}},
                  "outs": [{"path": "models/checkpoint", "md5": "0" * 32}]},
        "evaluate": {"cmd": "x", "outs": [{"path": LOSSES, "md5": "0" * 32}]},
    },
}  # fmt: skip


@trust
@given(data=st.data())
def test_damaged_losses_and_locks_are_compared_or_refused(book: Book, strategies: Any, data: st.DataObject) -> None:
    losses, lock = table_of_losses(), LOCK
    if data.draw(st.booleans()):
        losses = data.draw(strategies.damaged(losses))
    else:
        lock = data.draw(strategies.edited(lock))
    text = losses.decode(errors="replace")
    digest = hashlib.md5(text.encode()).hexdigest()
    files = {"dvc.lock": json.dumps(lock).replace("0" * 32, digest), LOSSES: text}
    if data.draw(st.booleans()):
        files["dvc.lock"] = data.draw(strategies.damaged(files["dvc.lock"].encode())).decode(errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisions.Revision, "__init__", lambda revision, name: setattr(revision, "name", name))
        patch.setattr(revisions.Revision, "read", lambda revision, path, remedy: files[path])
        try:
            run = compare.read_run("a")
            assert run.bits.shape == (len(run.lengths),)
            assert math.isfinite(effective_documents(run.lengths[:, 1]))
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
    book.note("damage to losses or dvc.lock")
