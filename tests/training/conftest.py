"""A tiny run of the train stage: two layers, byte tokens, a few dozen sentences; well under a second each."""

import contextlib
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.io.params import load_params

SPECIALS = {"pad": 256, "eos": 257, "bos": 258, "unk": 259}
MODEL = {
    "architecture": "llama3", "context_length": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
    "d_ff": 32, "rope_theta": 1e4, "norm_eps": 1e-6, "embedding_dropout": 0.1, "attention_dropout": 0.1,
    "residual_dropout": 0.1,
}  # fmt: skip
TRAIN = {
    "seed": 1, "initialization": "gpt2", "steps": 12, "batch_size": 4,
    "micro_batch_size": 2, "stride": None, "learning_rate": 1e-2,
    "min_learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.1, "decay": 0.2, "beta1": 0.9, "beta2": 0.95,
    "eps": 1e-8, "weight_decay": 0.1, "gradient_clip": 1.0, "validate_every": 5, "val_documents": 6, "log_every": 1,
    "checkpoint_every": 2, "keep": "last", "accelerator": "cpu", "precision": "32", "threads": 1,
    "portable": False, "compile": False, "deterministic": True, "vocabulary_sample": 1.0,
}  # fmt: skip


def encode_documents(texts):
    parts = []
    for text in texts:
        parts += [[SPECIALS["bos"]], list(text.encode()), [SPECIALS["eos"]]]
    return np.concatenate([np.array(p, np.uint32) for p in parts])


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    names = ["Tom", "Ann", "Ida", "Bo", "Max"]
    things = ["ball", "cat", "book", "red kite"]
    texts = [f"{n} has a {t}. {m} sees it." for n in names for t in things for m in names if m != n]
    write_shards(
        folder, {"train": texts[8:], "val": texts[:8]}, encode_documents, ShardsParams(shard_tokens=1000),
        vocab_size=260, special_ids=SPECIALS, tokenizer="0" * 64, workers=1,
    )  # fmt: skip
    return folder


class FakeStage:
    """The stage context that the runner passes to a stage, without DVC."""

    name = "train"
    runtime = SimpleNamespace(workers=1, progress=False, loggers=(), launcher="none", devices=1, nodes=1)

    def __init__(self, model, train):
        self.values = {"model": model, "train": train}
        self.said = []

    def section(self, name, choices):
        return load_params(name, self.values[name], choices)

    def say(self, line):
        self.said.append(line)

    def work_folder(self):
        Path("work").mkdir(exist_ok=True)
        return Path("work")

    def warn_of_changes(self):
        pass


@pytest.fixture
def train(tmp_path, monkeypatch, shards):
    """`train(folder, key=value, …)` trains in tmp_path/folder, and again continues there; returns what is in it."""

    def run(folder, model=None, runtime=None, read=True, **change):
        here = tmp_path / folder
        here.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(here)
        stage = train_here(shards, model or {}, runtime or {}, change)
        return Result(here, stage) if read else None

    return run


@pytest.fixture(scope="module")
def usual(tmp_path_factory, shards):
    """`usual(key=value, …)`: the result of a run that nobody disturbs, which is computed once."""

    @functools.cache
    def run(**change):
        here = tmp_path_factory.mktemp("usual")
        with contextlib.chdir(here):
            return Result(here, train_here(shards, {}, {}, change))

    return run


def train_here(shards, model, runtime, change):
    from tiny_lm.stages.train import main

    if not Path("data/shards").exists():
        Path("data").mkdir(exist_ok=True)
        Path("data/shards").symlink_to(shards)
    stage = FakeStage({**MODEL, **model}, {**TRAIN, **change})
    stage.runtime = SimpleNamespace(**{**vars(stage.runtime), **runtime})
    main(stage)
    return stage


class Result:
    """The outputs of a run: the bytes that must be reproducible, and the metrics."""

    def __init__(self, folder, stage):
        self.said = stage.said
        self.train = stage.values["train"]
        files = [p for root in ("models", "results") for p in sorted((folder / root).rglob("*")) if p.is_file()]
        self.files = {str(p.relative_to(folder)): p.read_bytes() for p in files if "hardware" not in p.parts}
        self.metrics = json.loads((folder / "results/train/metrics.json").read_text())
        self.hardware = json.loads((folder / "results/train/hardware/metrics.json").read_text())
        self.weights = self.files["models/checkpoint/model.safetensors"]

    def rows(self, name):
        lines = self.files[f"results/train/plots/metrics/{name}.tsv"].decode().splitlines()
        assert lines[0] == f"step\t{name}"
        return {int(step): float(value) for step, value in (line.split("\t") for line in lines[1:])}
