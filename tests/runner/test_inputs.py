"""Inputs are read once, whatever they are compared with."""

import json
from pathlib import Path

import pytest
import yaml

from tiny_lm.documents import DocumentWriter
from tiny_lm.runner import dvc_lock
from tiny_lm.runner.dvc_lock import list_folder, list_md5, recorded_outputs
from tiny_lm.runner.inputs import check_paths

CORPUS = Path("data/corpus")


@pytest.fixture(autouse=True)
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CORPUS.mkdir(parents=True)
    splits = {}
    for split in ("train", "val"):
        with DocumentWriter(CORPUS / f"{split}.parquet") as writer:
            writer.write(split)
        splits[split] = writer.facts()
    (CORPUS / "metadata.json").write_text(json.dumps({"source": {}, "splits": splits}))
    record()


def record():
    output = {"path": str(CORPUS), "md5": list_md5(list_folder(CORPUS, {}))}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"corpus": {"outs": [output]}}}))


def check():
    check_paths([CORPUS], recorded_outputs(Path("dvc.lock")))


def test_documents_are_hashed_for_dvc_lock_and_metadata_in_one_pass(monkeypatch):
    again, md5 = [], dvc_lock.md5
    monkeypatch.setattr(dvc_lock, "md5", lambda file: again.append(file.name) or md5(file))
    check()
    assert again == ["metadata.json"]


def test_damage_is_found_against_dvc_lock_first_and_else_against_metadata():
    (CORPUS / "val.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^data/corpus: not what dvc.lock records; `tiny-lm restore corpus`"):
        check()
    record()
    with pytest.raises(ValueError, match=r"^data/corpus/val.parquet: checksum mismatch with metadata.json"):
        check()


def test_metadata_of_another_corpus_is_found_against_dvc_lock():
    metadata = json.loads((CORPUS / "metadata.json").read_text())
    (CORPUS / "metadata.json").write_text(json.dumps(metadata | {"source": {"revision": "other"}}))
    with pytest.raises(ValueError, match=r"^data/corpus: not what dvc.lock records"):
        check()
