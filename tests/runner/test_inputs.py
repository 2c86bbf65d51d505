"""The inputs of a stage are compared with dvc.lock, or with their own metadata."""

import json
from pathlib import Path

import pytest
import yaml
from corpora import write_corpus

from tiny_lm.runner.dvc_lock import list_folder, list_md5, recorded_outputs
from tiny_lm.runner.inputs import check_paths
from tiny_lm.tools import check as check_tool

CORPUS = Path("data/corpus")


@pytest.fixture(autouse=True)
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(CORPUS, ["train"], ["val"])
    record()


def record():
    output = {"path": str(CORPUS), "md5": list_md5(list_folder(CORPUS))}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"corpus": {"outs": [output]}}}))


def check():
    check_paths([CORPUS], recorded_outputs(Path("dvc.lock")))


def test_damage_is_found_by_dvc_lock_or_without_it_by_the_metadata():
    (CORPUS / "val/00000.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^data/corpus: not what dvc.lock records; `tiny-lm restore corpus`"):
        check()
    Path("dvc.lock").unlink()
    with pytest.raises(ValueError, match=r"^data/corpus/val/00000.parquet: checksum mismatch with metadata.json"):
        check()


def test_tiny_lm_check_compares_recorded_documents_with_their_metadata_too():
    (CORPUS / "val/00000.parquet").write_bytes(b"damaged")
    record()
    check()
    with pytest.raises(ValueError, match=r"^data/corpus/val/00000.parquet: checksum mismatch with metadata.json"):
        check_tool.main([])


def test_metadata_of_another_corpus_is_found_by_dvc_lock():
    metadata = json.loads((CORPUS / "metadata.json").read_text())
    (CORPUS / "metadata.json").write_text(json.dumps(metadata | {"source": {"revision": "other"}}))
    with pytest.raises(ValueError, match=r"^data/corpus: not what dvc.lock records"):
        check()


def test_a_single_file_of_a_recorded_folder_is_compared_with_the_list_in_dvcs_cache():
    listing = list_folder(CORPUS)
    digest = list_md5(listing)
    cached = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(listing, sort_keys=True))  # as DVC does
    metadata, outputs = CORPUS / "metadata.json", recorded_outputs(Path("dvc.lock"))
    check_paths([metadata], outputs)
    (CORPUS / "val/00000.parquet").write_bytes(b"damaged")  # not an input
    check_paths([metadata], outputs)
    metadata.write_bytes(metadata.read_bytes() + b"\n")
    said = rf"^{metadata}: not what dvc.lock records; `tiny-lm restore corpus`"
    with pytest.raises(ValueError, match=said):
        check_paths([metadata], outputs)
    metadata.unlink()
    with pytest.raises(ValueError, match=said):
        check_paths([metadata], outputs)
    cached.unlink()
    check_paths([metadata], outputs)
