from pathlib import Path

import pytest
from corpora import texts_of

from tiny_lm.corpus.mixture import DATASETS
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.stories.generator import VERSION, story

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "configs/dataset").glob("*.yaml"))


def preset(name, /, **changes):
    return read_yaml(ROOT / f"configs/dataset/{name}.yaml")["dataset"] | changes


def load(name, /, **changes):
    return load_params("dataset", preset(name, **changes), DATASETS)


# ---- params


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_load(path):
    assert load(path.stem).path == "data/raw"


def test_the_documented_presets_exist():
    assert {"stories", "tinystories", "swallow-code", "local"} <= {path.stem for path in PRESETS}
    tiny, code = load("tinystories"), load("swallow-code")
    assert (tiny.name, tiny.field, tiny.train_split, tiny.val_split) == (
        "roneneldan/TinyStories", "text", "train", "validation",
    )  # fmt: skip
    assert (code.name, code.config, code.val_split) == ("tokyotech-llm/swallow-code", "swallow-code", None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("stories", {"source": "web"}, "source = 'web': must be one of stories, huggingface, local, url, mixture"),
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
        ("stories", {"min_chars": 9, "max_chars": 8}, "max_chars = 8: must be null, or at least min_chars = 9"),
        ("stories", {"max_train_documents": 0}, "max_train_documents = 0: must be null, or 1 or more"),
        ("stories", {"max_val_documents": 0}, "max_val_documents = 0: must be null, or 1 or more"),
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
        ("local", {"format": "xml"}, "format = 'xml': must be one of auto, text, jsonl, json, csv, tsv, parquet"),
        ("local", {"format": "text"}, "field = 'text': must be null with format: text"),
        (
            "local",
            {"format": "csv", "field": None},
            "field = None: must be the name of a field with format: csv",
        ),
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
def test_invalid_params_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=f"^dataset.{message}"):
        load(name, **changes)


# ---- stories and local files


def test_stories_come_from_the_generator():
    source = load("stories", documents=5, seed=3).open(False, InProcess())
    assert texts_of(source.train) == [story(3, index) for index in range(5)]
    assert (source.val, source.total) == (None, 5)
    assert source.provenance == {"source": "stories", "generator_version": VERSION, "seed": 3, "documents": 5}
