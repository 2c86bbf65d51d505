import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub, Repository

from tiny_lm.corpus.sources import huggingface
from tiny_lm.corpus.sources.registry import SOURCES, open_source
from tiny_lm.io.params import load_params, read_yaml

ROOT = Path(__file__).parents[3]


def preset(name, /, **changes):
    return read_yaml(ROOT / f"configs/dataset/{name}.yaml")["dataset"] | changes


def load(name, /, **changes):
    return load_params("dataset", preset(name, **changes), SOURCES)


# ---- Hugging Face, on a hub of our own; in one process of its own, as the environment is read at import

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
    "no data set": ({}, SINGLE | {"name": "own/other"}),
    "down, in the cache": ({"down": 1}, SINGLE | {"revision": None}),
    "down, other revision": ({"down": 1}, SINGLE | {"revision": NEW[:-1] + "b"}),
}

SCRIPT = """
import json, os, sys, time, urllib.request
from tiny_lm.corpus.sources.registry import SOURCES, open_source
from tiny_lm.io.params import load_params
from tiny_lm.corpus.sources.registry import SOURCES, open_source
from tiny_lm.io.params import load_params
results = {}
for name, (state, values) in json.load(sys.stdin).items():
    for key, value in ({"failures": 0, "down": 0} | state).items():
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/control/{key}/{value}").close()
    pauses = []
    time.sleep = pauses.append
    try:
        source = open_source(load_params("dataset", values, SOURCES))
        result = {"train": list(source.train), "val": source.val and list(source.val)}
        result |= {"facts": source.facts, "total": source.total}
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
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(scenarios), capture_output=True, text=True,
            env=kept | environment, cwd=home, timeout=120,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_config_of_a_data_set_is_loaded_and_its_commit_recorded(hub_results):
    result = hub_results["recovers"]
    assert result["train"] == [f"new {i}" for i in range(9)]
    assert (result["val"], result["total"]) == (None, 9)
    assert result["facts"] == {
        "source": "huggingface", "name": "own/data", "config": "single", "revision": NEW, "field": "text",
        "train_split": "train", "val_split": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["pair", "pair streamed"])
def test_both_splits_are_loaded_in_order(hub_results, name):
    result = hub_results[name]
    assert result["train"] == [f"first {i}" for i in range(250)] + [f"second {i}" for i in range(5)]
    assert result["val"] == [f"val {i}" for i in range(7)] + [""]
    assert result["total"] == (255 if name == "pair" else None)
    assert result["facts"]["revision"] == NEW


def test_the_split_map_says_which_split_is_which(hub_results):
    assert hub_results["swapped"]["train"] == hub_results["pair"]["val"]
    assert hub_results["swapped"]["val"] == hub_results["pair"]["train"]


@pytest.mark.parametrize("name", ["branch", "commit"])
def test_a_revision_is_loaded_and_recorded_as_its_commit(hub_results, name):
    assert hub_results[name]["train"] == ["old 0", "old 1", "old 2"]
    assert hub_results[name]["facts"]["revision"] == OLD


def test_failed_downloads_are_tried_again_after_growing_pauses(hub_results):
    assert huggingface.FIRST_PAUSE_SECONDS in hub_results["recovers"]["pauses"]
    assert hub_results["stream recovers"]["train"] == [f"new {i}" for i in range(9)]
    assert hub_results["stream recovers"]["pauses"]


@pytest.mark.parametrize("name", ["down", "broken", "broken stream"])
def test_a_hub_that_stays_broken_is_explained_in_one_line(hub_results, name):
    error = hub_results[name]["error"]
    assert error.startswith("dataset.name = 'own/data': could not be loaded from the Hub after 3 attempts: ")
    assert "\n" not in error
    assert {2.0, 4.0} <= set(hub_results[name]["pauses"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no field", "dataset.field = 'body': no such field in own/data; there is 'text', 'id'"),
        ("no text", "dataset.field = 'id': must be text, row 0 has int"),
        ("no config", "BuilderConfig 'other' not found. Available: ['pair', 'single']"),
        ("no split", "Unknown split \"other\". Should be one of ['train']"),
        ("no split streamed", "Bad split: other. Available splits: ['train']"),
        ("no revision", "Revision 'other' doesn't exist"),
        ("no data set", "Dataset 'own/other' doesn't exist"),
    ],
)
def test_what_is_not_there_is_named_at_once(hub_results, name, message):
    assert message in hub_results[name]["error"]
    assert hub_results[name]["pauses"] == []


def test_without_the_hub_the_cache_serves_and_the_commit_is_its_own(hub_results):
    result = hub_results["down, in the cache"]
    assert result["train"][0].split()[0] == {NEW: "new", OLD: "old"}[result["facts"]["revision"]]


def test_without_the_hub_the_cache_does_not_pass_for_another_revision(hub_results):
    assert "the copy in the cache is of revision" in hub_results["down, other revision"]["error"]


def test_a_folder_of_the_same_name_is_not_mistaken_for_the_hub(tmp_path, monkeypatch):
    (tmp_path / "own/data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"dataset\.name = 'own/data': .*source: local"):
        open_source(load("tinystories", name="own/data"))


class Broken:
    """A stream that breaks off once, in the middle."""

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


def test_a_stream_that_breaks_off_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(huggingface, "BATCH_DOCUMENTS", 4)
    pauses = []
    monkeypatch.setattr(huggingface.time, "sleep", pauses.append)
    texts = [str(i) for i in range(50)]
    again = iter([Broken(texts, 24), Broken(texts, 100)])
    params = load("tinystories")
    assert list(huggingface._texts(Broken(texts, 12), lambda: next(again), params)) == texts
    assert pauses == [2.0, 2.0]


def test_a_stream_that_stays_broken_ends_with_an_error(monkeypatch):
    monkeypatch.setattr(huggingface.time, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=r"after 3 attempts: ConnectionError: gone"):
        list(huggingface._texts(Broken(["a"], 0), lambda: Broken(["a"], 0), load("tinystories")))
