"""The contents of the model card, and its YAML front matter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny_lm.export.card import USE, model_card, read_metrics

COUNTS = {"documents": 29_402, "characters": 9, "bytes": 1_538, "sha256": "f9df"}
STORIES = {"source": {"source": "stories", "seed": 0}, "splits": {"train": COUNTS, "val": COUNTS | {"documents": 598}}}


def card(**changes: Any) -> str:
    facts: dict[str, Any] = {
        "architecture": "llama3",
        "parameters": 4_196_608,
        "data": STORIES,
        "params": {"model": {"d_model": 256, "d_ff": None, "compile": False}, "export": {"dtype": "a|b"}},
        "step": 1500,
        "tokens_seen": 6_144_000,
        "metrics": {"loss": 1.23456789, "tokens": 2},
        "provenance": {"corpus": "abc"},
    }
    return model_card(**(facts | changes))


def front(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def test_shows_data_params_metrics_and_provenance() -> None:
    text = card()
    assert front(text) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tiny-lm"]}
    assert "# llama3, 4.2 M parameters" in text
    assert "1,500 steps, 6,144,000 tokens" in text
    for row in (
        "source | stories",
        "seed | 0",
        "train documents | 29,402",
        "val documents | 598",
        "val bytes | 1,538",
        "d_model | 256",
        "d_ff | null",
        "compile | false",
        "dtype | a\\|b",
        "loss | 1.2345679",
        "tokens | 2",
        "corpus | `abc`",
    ):
        assert f"| {row} |" in text


def test_a_dataset_from_the_hub_is_linked() -> None:
    source = {"source": "huggingface", "name": "roneneldan/TinyStories", "revision": "f54c"}
    text = card(data=STORIES | {"source": source})
    assert front(text)["datasets"] == ["roneneldan/TinyStories"]
    assert "| revision | f54c |" in text


def test_a_mixture_shows_its_sources() -> None:
    files = [{"name": "secret.txt", "bytes": 1}]
    sources = [
        {"source": "local", "files": files, "weight": 0.25, "removed": {"blank": 3}, "train": {"bytes": 10}},
        {"source": "huggingface", "name": "roneneldan/TinyStories", "weight": 0.75, "train": {"bytes": 30}},
        {"source": "huggingface", "name": "roneneldan/TinyStories", "weight": 0.1},
    ]
    text = card(data=STORIES | {"source": {"source": "mixture", "sources": sources}})
    assert front(text)["datasets"] == ["roneneldan/TinyStories"]
    assert "secret" not in text
    for row in (
        "source | mixture", "sources.0.files | 1", "sources.0.weight | 0.25", "sources.0.removed.blank | 3",
        "sources.1.train.bytes | 30", "train documents | 29,402",
    ):  # fmt: skip
        assert f"| {row} |" in text


def test_local_files_are_counted_and_not_named() -> None:
    files = [{"name": "letters-to-anna.txt", "bytes": 3}, {"name": "b.txt", "bytes": 4}]
    text = card(data=STORIES | {"source": {"source": "local", "files": files}})
    assert "| files | 2 |" in text
    many = {"source": "local", "files": {"number": 123456, "sha256": "0" * 64}}
    assert "| files | 123456 |" in card(data=STORIES | {"source": many})
    assert "anna" not in text
    assert "datasets" not in front(text)


def test_the_example_works_with_a_short_context() -> None:
    assert "max_new_tokens" not in USE  # generation_config.json has half of the context


def test_the_metrics_of_a_model_that_diverged_are_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"loss": 44.0, "perplexity": math.exp(44.0)}))
    assert read_metrics(tmp_path / "metrics.json")["loss"] == 44.0
    (tmp_path / "metrics.json").write_text('{"loss": 1e999}')
    with pytest.raises(ValueError, match="'loss' = inf: must be a finite number"):
        read_metrics(tmp_path / "metrics.json")


def test_empty_tables_are_left_out() -> None:
    nothing = {"source": {"source": "stories"}, "splits": {}}
    text = card(data=nothing, params={"export": {}}, metrics={}, provenance={})
    assert text.count("|---|") == 1
