import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub, Repository

from tiny_lm.corpus.sources import huggingface
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params, read_yaml

ROOT = Path(__file__).parents[3]


def preset(name, /, **changes):
    return read_yaml(ROOT / f"configs/dataset/{name}.yaml")["dataset"] | changes


def load(name, /, **changes):
    return load_params("dataset", preset(name, **changes), SOURCES)


# A fake Hub. All scenarios run in one separate process, because `datasets` reads the environment when it is imported.

NEW, OLD = "a" * 40, "b" * 40
CARD = b"""---
configs:
- config_name: pair
  data_files:
  - {split: train, path: pair/train-*}
  - {split: validation, path: pair/val-*}
- config_name: single
  data_files: single/*
---
"""


def rows(word, count):
    return "".join(json.dumps({"text": f"{word} {i}", "id": i}) + "\n" for i in range(count)).encode()


FILES = {
    "README.md": CARD,
    "pair/train-0.jsonl": rows("first", 250),
    "pair/train-1.jsonl": rows("second", 5),
    "pair/val-0.jsonl": rows("val", 7) + b'{"text": null, "id": 7}\n',
    "single/x.jsonl": rows("new", 9),
}
SINGLE = {"config": "single", "validation": "random", "val_split": None, "validation_fraction": 0.1}
PAIR = {"config": "pair"}

SCENARIOS = {  # state of the hub, params; in this order, with one cache
    "down": ({"down": 1}, SINGLE),
    "broken": ({"failures": -1}, SINGLE),
    "broken stream": ({"failures": -1}, SINGLE | {"streaming": True}),
    "recovers": ({"failures": 7}, SINGLE),
    "stream recovers": ({"failures": 2}, SINGLE | {"streaming": True}),
    "pair": ({}, PAIR),
    "pair streamed": ({}, PAIR | {"streaming": True}),
    "swapped": ({}, PAIR | {"train_split": "validation", "val_split": "train"}),
    "branch": ({}, SINGLE | {"revision": "old"}),
    "commit": ({}, SINGLE | {"revision": OLD, "streaming": True}),
    "no field": ({}, SINGLE | {"field": "body"}),
    "no text": ({}, SINGLE | {"field": "id"}),
    "no config": ({}, SINGLE | {"config": "other"}),
    "no split": ({}, SINGLE | {"train_split": "other"}),
    "no split streamed": ({}, SINGLE | {"train_split": "other", "streaming": True}),
    "no revision": ({}, SINGLE | {"revision": "other"}),
    "no dataset": ({}, SINGLE | {"name": "own/other"}),
    "down, in the cache": ({"down": 1}, SINGLE | {"revision": None}),
    "down, other revision": ({"down": 1}, SINGLE | {"revision": NEW[:-1] + "b"}),
}

SCRIPT = """
import json, os, sys, time, urllib.request
from corpora import texts_of
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params
results = {}
for name, (state, values) in json.load(sys.stdin).items():
    for key, value in ({"failures": 0, "down": 0} | state).items():
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/control/{key}/{value}").close()
    pauses = []
    time.sleep = pauses.append
    try:
        source = load_params("dataset", values, SOURCES).open(False, InProcess())
        result = {"train": texts_of(source.train), "val": source.val and texts_of(source.val)}
        result |= {"provenance": source.provenance, "total": source.total}
    except ValueError as error:
        result = {"error": str(error)}
    results[name] = result | {"pauses": pauses}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def hub_results(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")
    scenarios = {
        name: (state, preset("tinystories", name="own/data") | changes) for name, (state, changes) in SCENARIOS.items()
    }
    old = FILES | {"single/x.jsonl": rows("old", 3)}
    with Hub({"own/data": Repository({NEW: FILES, OLD: old}, {"main": NEW, "old": OLD})}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(scenarios), capture_output=True, text=True,
            env=kept | environment, cwd=home, timeout=120,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_config_of_a_dataset_is_loaded_and_its_commit_recorded(hub_results):
    result = hub_results["recovers"]
    assert result["train"] == [f"new {i}" for i in range(9)]
    assert (result["val"], result["total"]) == (None, 9)
    assert result["provenance"] == {
        "source": "huggingface", "name": "own/data", "config": "single", "revision": NEW, "field": "text",
        "train_split": "train", "val_split": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["pair", "pair streamed"])
def test_both_splits_are_loaded_in_order(hub_results, name):
    result = hub_results[name]
    assert result["train"] == [f"first {i}" for i in range(250)] + [f"second {i}" for i in range(5)]
    assert result["val"] == [f"val {i}" for i in range(7)] + [""]
    assert result["total"] == (255 if name == "pair" else None)
    assert result["provenance"]["revision"] == NEW


def test_train_split_and_val_split_select_the_splits(hub_results):
    assert hub_results["swapped"]["train"] == hub_results["pair"]["val"]
    assert hub_results["swapped"]["val"] == hub_results["pair"]["train"]


@pytest.mark.parametrize("name", ["branch", "commit"])
def test_a_revision_is_loaded_and_recorded_as_its_commit(hub_results, name):
    assert hub_results[name]["train"] == ["old 0", "old 1", "old 2"]
    assert hub_results[name]["provenance"]["revision"] == OLD


def test_failed_downloads_are_retried_after_growing_pauses(hub_results):
    assert huggingface.FIRST_PAUSE_SECONDS in hub_results["recovers"]["pauses"]
    assert hub_results["stream recovers"]["train"] == [f"new {i}" for i in range(9)]
    assert hub_results["stream recovers"]["pauses"]


@pytest.mark.parametrize("name", ["down", "broken", "broken stream"])
def test_a_hub_that_stays_down_is_reported_in_one_line(hub_results, name):
    error = hub_results[name]["error"]
    assert error.startswith("dataset.name = 'own/data': could not be loaded from the Hub after 3 attempts: ")
    assert "\n" not in error
    assert {2.0, 4.0} <= set(hub_results[name]["pauses"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no field", "dataset.field = 'body': no such field in own/data; choose one of 'text', 'id'"),
        ("no text", "dataset.field = 'id': must be text, but row 0 has int"),
        ("no config", "BuilderConfig 'other' not found. Available: ['pair', 'single']"),
        ("no split", "Unknown split \"other\". Should be one of ['train']"),
        ("no split streamed", "Bad split: other. Available splits: ['train']"),
        ("no revision", "Revision 'other' doesn't exist"),
        ("no dataset", "Dataset 'own/other' doesn't exist"),
    ],
)
def test_a_wrong_name_is_reported_without_retries(hub_results, name, message):
    assert message in hub_results[name]["error"]
    assert hub_results[name]["pauses"] == []


def test_without_the_hub_the_cached_copy_is_used_and_its_commit_recorded(hub_results):
    result = hub_results["down, in the cache"]
    assert result["train"][0].split()[0] == {NEW: "new", OLD: "old"}[result["provenance"]["revision"]]


def test_without_the_hub_the_cached_copy_is_not_used_for_another_revision(hub_results):
    assert "the cache has another revision" in hub_results["down, other revision"]["error"]


def test_a_folder_with_the_name_of_the_dataset_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own/data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"dataset\.name = 'own/data': .*source: local"):
        load("tinystories", name="own/data").open(False, InProcess())


class Broken:
    """A stream that fails after `good` rows."""

    def __init__(self, texts, good):
        self.texts, self.good, self.start = texts, good, 0

    def skip(self, start):
        self.start = start
        return self

    def iter(self, size):
        for i in range(self.start, len(self.texts), size):
            if i >= self.good:
                raise ConnectionError("gone")
            yield {"text": self.texts[i : i + size]}


def test_a_stream_that_fails_continues_after_the_last_row(monkeypatch):
    monkeypatch.setattr(huggingface, "BATCH_DOCUMENTS", 4)
    pauses = []
    monkeypatch.setattr(huggingface.time, "sleep", pauses.append)
    texts = [str(i) for i in range(50)]
    again = iter([Broken(texts, 24), Broken(texts, 100)])
    params = load("tinystories")
    assert list(huggingface._texts(Broken(texts, 12), lambda: next(again), params)) == texts
    assert pauses == [2.0, 2.0]


def test_a_stream_that_keeps_failing_is_an_error(monkeypatch):
    monkeypatch.setattr(huggingface.time, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=r"after 3 attempts: ConnectionError: gone"):
        list(huggingface._texts(Broken(["a"], 0), lambda: Broken(["a"], 0), load("tinystories")))
