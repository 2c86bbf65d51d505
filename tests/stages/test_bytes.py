"""Corpus, tokenizer and shards have the same bytes on any machine and Python. (Parquet also depends on pyarrow.)"""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from fake_stage import FakeStage

from tiny_lm.io.params import read_yaml
from tiny_lm.stages import corpus, shards, tokenizer

PRESET = Path(__file__).parents[2] / "configs/dataset/stories.yaml"
SHA256 = {
    "data/corpus": "48c639efd031dad23e61a0daf890c6d07e81c567f96fcf4fcd2e3d0dbec04351",
    "models/tokenizer": "213b1e2624da484452408227d040035972815961d1739a59aaaa97d3bb8f9db0",
    "data/shards": "475f0b46d7cb4b1223ae3260404fd7e9311c98a6e7e4371dbc36c688bac38c83",
}


def digest(folder: Path) -> str:
    """Of the names and contents of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def test_the_bytes_are_those_of_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage: Any = FakeStage(
        dataset=read_yaml(PRESET)["dataset"] | {"documents": 200, "validation_fraction": 0.1},
        tokenizer={"vocab_size": 400, "pattern": "gpt4-digits2"},
        shards={"shard_tokens": 10_000},
    )
    for each in (corpus, tokenizer, shards):
        each.main(stage)
    assert {folder: digest(Path(folder)) for folder in SHA256} == SHA256
