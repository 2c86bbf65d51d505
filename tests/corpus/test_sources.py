import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.config import load_params, read_yaml
from tiny_lm.corpus import sources
from tiny_lm.corpus.sources import SOURCES, open_source
from tiny_lm.corpus.stories import VERSION, story

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs/dataset").glob("*.yaml"))


def preset(name, /, **changes):
    return read_yaml(ROOT / f"configs/dataset/{name}.yaml")["dataset"] | changes


def load(name, /, **changes):
    return load_params("dataset", preset(name, **changes), SOURCES)


# ---- params


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_load(path):
    assert load(path.stem).path == "data/raw"


def test_the_presets_that_are_promised_are_there():
    assert {"stories", "tinystories", "swallow-code", "local"} <= {path.stem for path in PRESETS}
    tiny, code = load("tinystories"), load("swallow-code")
    assert (tiny.name, tiny.field, tiny.train_split, tiny.val_split) == (
        "roneneldan/TinyStories", "text", "train", "validation",
    )  # fmt: skip
    assert (code.name, code.config, code.val_split) == ("tokyotech-llm/swallow-code", "swallow-code", None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("stories", {"source": "web"}, "source = 'web': must be one of stories, huggingface, local"),
        (
            "stories",
            {"path": "book.txt"},
            r"path = 'book.txt': must be data/raw \(only source: local reads another path\)",
        ),
        ("tinystories", {"path": "x"}, "path = 'x': must be data/raw"),
        ("stories", {"seed": -1}, "seed = -1: must be 0 or more"),
        ("stories", {"documents": 1}, "documents = 1: must be 2 or more"),
        ("stories", {"validation": "source"}, "validation = 'source': must be one of random, tail"),
        ("stories", {"validation_fraction": 0.0}, "validation_fraction = 0.0: must be between 0 and 1"),
        ("stories", {"validation_fraction": 1}, "validation_fraction = 1.0: must be between 0 and 1"),
        ("stories", {"validation_fraction": None}, "validation_fraction = None: must be between 0 and 1"),
        ("stories", {"min_chars": 0}, "min_chars = 0: must be 1 or more"),
        ("stories", {"min_chars": 9, "max_chars": 8}, "max_chars = 8: must be null or min_chars or more"),
        ("stories", {"max_train_documents": 0}, "max_train_documents = 0: must be null or 1 or more"),
        ("stories", {"max_val_documents": 0}, "max_val_documents = 0: must be null or 1 or more"),
        ("stories", {"glob": "*"}, "glob: unknown key with dataset.source = stories"),
        (
            "tinystories",
            {"validation_fraction": 0.1},
            "validation_fraction = 0.1: must be null with validation: source",
        ),
        ("tinystories", {"val_split": None}, "val_split = None: must be a split other than train_split"),
        ("tinystories", {"val_split": "train"}, "val_split = 'train': must be a split other than train_split"),
        ("swallow-code", {"val_split": "test"}, "val_split = 'test': must be null with validation: random"),
        ("tinystories", {"name": "TinyStories"}, "name = 'TinyStories': must be owner/name"),
        ("tinystories", {"name": "https://hf.co/a/b"}, "name = .*: must be owner/name"),
        ("tinystories", {"field": ""}, "field = '': must be a name"),
        ("tinystories", {"config": ""}, "config = '': must be a name or null"),
        ("local", {"validation": "source"}, "validation = 'source': must be one of random, tail"),
        ("local", {"path": "."}, "path = '.': must be a file or a folder"),
        ("local", {"format": "xml"}, "format = 'xml': must be one of auto, text, jsonl, csv, parquet"),
        ("local", {"format": "text"}, "field = 'text': must be null with format: text"),
        ("local", {"format": "csv", "field": None}, "field = None: must be the field with the text, with format: csv"),
        ("local", {"format": "csv", "separator": "\n"}, r"separator = '\\n': must be null with format: csv"),
        ("local", {"separator": ""}, "separator = '': must be null"),
        ("local", {"glob": ""}, "glob = '': must be a pattern"),
        ("local", {"glob": "/etc/*"}, "glob = '/etc/.': must be a pattern inside the folder"),
        ("local", {"glob": "../*"}, "glob = .*: must be a pattern inside the folder"),
        ("local", {"glob": "**"}, "glob = .*: must be a pattern inside the folder"),
        ("local", {"glob": "\ud800*"}, r"glob = '\\ud800\*': must be a pattern inside the folder"),
        ("local", {"glob": "**.txt"}, "glob = .*: must be a pattern inside the folder"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_door(name, changes, message):
    with pytest.raises(ValueError, match=f"^dataset.{message}"):
        load(name, **changes)


# ---- stories and local files


def test_stories_are_the_generators():
    source = open_source(load("stories", documents=5, seed=3))
    assert list(source.train) == [story(3, index) for index in range(5)]
    assert (source.val, source.total) == (None, 5)
    assert source.facts == {"source": "stories", "generator_version": VERSION, "seed": 3, "documents": 5}


def test_local_files_come_in_order_with_names_sizes_and_checksums(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_text('{"text": "third"}\n{"text": "fourth"}\n')
    (tmp_path / "a.txt").write_text("first--second--")
    (tmp_path / "sub/c.csv").write_text("text\nfifth\n")
    source = open_source(load("local", path=str(tmp_path), separator="--"))
    assert list(source.train) == ["first", "second", "third", "fourth", "fifth"]
    assert [file["name"] for file in source.facts["files"]] == ["a.txt", "b.jsonl", "sub/c.csv"]
    assert source.facts["files"][0] == {
        "name": "a.txt",
        "format": "text",
        "bytes": 15,
        "sha256": hashlib.sha256(b"first--second--").hexdigest(),
    }
    assert str(tmp_path) not in json.dumps(source.facts)


def test_of_very_many_files_the_metadata_has_a_number_and_a_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_LISTED", 2)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    facts = open_source(load("local", path=str(tmp_path))).facts
    assert facts["files"] == {"number": 3, "sha256": facts["files"]["sha256"]}
    (tmp_path / "a.txt").write_text("A")
    assert open_source(load("local", path=str(tmp_path))).facts != facts


def test_progress_goes_to_stderr_only_where_asked_for(capsys):
    list(open_source(load("stories", documents=5)).train)
    assert capsys.readouterr() == ("", "")
    list(open_source(load("stories", documents=5), progress=True).train)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err


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
from tiny_lm.corpus.sources import SOURCES, open_source
from tiny_lm.config import load_params
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
def hub_results(hub_class, tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")
    scenarios = {
        name: (state, preset("tinystories", name="own/data") | changes) for name, (state, changes) in SCENARIOS.items()
    }
    old = FILES | {"single/x.jsonl": rows("old", 3)}
    with hub_class("own/data", {NEW: FILES, OLD: old}, {"main": NEW, "old": OLD}) as hub:
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
    assert sources.FIRST_PAUSE_SECONDS in hub_results["recovers"]["pauses"]
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
        ("no text", "dataset.field = 'id': must hold text, row 0 has int"),
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
    monkeypatch.setattr(sources, "BATCH_DOCUMENTS", 4)
    pauses = []
    monkeypatch.setattr(sources.time, "sleep", pauses.append)
    texts = [str(i) for i in range(50)]
    again = iter([Broken(texts, 24), Broken(texts, 100)])
    params = load("tinystories")
    assert list(sources._rows(Broken(texts, 12), lambda: next(again), params)) == texts
    assert pauses == [2.0, 2.0]


def test_a_stream_that_stays_broken_ends_with_an_error(monkeypatch):
    monkeypatch.setattr(sources.time, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=r"after 3 attempts: ConnectionError: gone"):
        list(sources._rows(Broken(["a"], 0), lambda: Broken(["a"], 0), load("tinystories")))
