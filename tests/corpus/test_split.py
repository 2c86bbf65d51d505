from collections import Counter
from pathlib import Path

import pytest

from tiny_lm.corpus.filters import Filters, Limits
from tiny_lm.corpus.sources.base import Source
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.split import explain_empty, random_split, split_documents, tail_split
from tiny_lm.io.params import load_params, read_yaml

ROOT = Path(__file__).parents[2]


class Params(StoriesParams):
    def __post_init__(self):
        """No checks, so that tests can combine any values."""


def params(**changes):
    values = {
        "source": "stories", "path": "data/raw", "seed": 0, "validation": "random", "validation_fraction": 0.1,
        "min_chars": 1, "max_chars": None, "deduplicate": True, "max_train_documents": None,
        "max_val_documents": None, "documents": 10,
    }  # fmt: skip
    return Params(**values | changes)


def split(train, val=None, folder=Path(), **changes):
    p = params(**changes)
    filters = Filters(min_chars=p.min_chars, max_chars=p.max_chars, deduplicate=p.deduplicate)
    limits = Limits({"train": p.max_train_documents, "val": p.max_val_documents})
    source = Source(iter(train), None if val is None else iter(val), None, {})
    result = {"train": [], "val": []}
    for name, text in split_documents(source, p, filters, limits, folder):
        result[name].append(text)
    return result, filters, limits


def parts(pairs):
    pairs = list(pairs)
    return [text for name, text in pairs if name == "train"], [text for name, text in pairs if name == "val"]


TEXTS = [f"document {i}" for i in range(2000)]


def test_random_takes_about_the_fraction():
    for fraction in (0.02, 0.5, 0.9):
        _, val = parts(random_split(TEXTS, 0, fraction))
        assert abs(len(val) - 2000 * fraction) < 4 * (2000 * fraction * (1 - fraction)) ** 0.5


def test_random_is_the_same_on_every_machine():
    _, val = parts(random_split(TEXTS[:100], 7, 0.1))
    assert val == [f"document {i}" for i in [10, 13, 33, 57, 79, 90]]


def test_random_keeps_a_documents_split_when_others_are_added_removed_or_reordered():
    before = {text: name for name, text in random_split(TEXTS[:1000], 0, 0.1)}
    after = {text: name for name, text in random_split([*reversed(TEXTS), "one more"], 0, 0.1)}
    assert before.items() <= after.items()


def test_random_depends_on_the_seed():
    assert parts(random_split(TEXTS, 0, 0.1)) != parts(random_split(TEXTS, 1, 0.1))


def test_a_larger_fraction_includes_the_documents_of_a_smaller_one():
    assert set(parts(random_split(TEXTS, 0, 0.1))[1]) < set(parts(random_split(TEXTS, 0, 0.2))[1])


@pytest.mark.parametrize("length", [10, 11, 997, 1000, 12345])
def test_tail_of_one_document_is_nanogpts_split(tmp_path, length):
    data = "".join(chr(33 + i % 90) for i in range(length))
    result, _, _ = split([data], folder=tmp_path, validation="tail", validation_fraction=0.1)
    n = len(data)
    assert result == {"train": [data[: int(n * 0.9)]], "val": [data[int(n * 0.9) :]]}
    assert list(tmp_path.iterdir()) == []


def test_tail_cuts_by_characters_of_all_documents_in_order(tmp_path):
    documents = ["a" * 30, "b" * 40, "é" * 20, "d" * 10]
    result, _, _ = split(documents, folder=tmp_path, validation="tail", validation_fraction=0.25)
    assert result == {"train": ["a" * 30, "b" * 40, "é" * 5], "val": ["é" * 15, "d" * 10]}


def test_tail_between_two_documents_splits_neither(tmp_path):
    result, filters, _ = split(["a" * 5, "b" * 5], folder=tmp_path, validation="tail", validation_fraction=0.5)
    assert result == {"train": ["aaaaa"], "val": ["bbbbb"]}
    assert sum(filters.removed.values()) == 0


def test_a_part_that_equals_a_training_document_does_not_reach_validation(tmp_path):
    result, filters, _ = split(["xyz", "..........xyz"], folder=tmp_path, validation="tail", validation_fraction=0.1875)
    assert result == {"train": ["xyz", ".........."], "val": []}
    assert filters.removed["duplicate"] == 1


def test_an_abandoned_tail_split_leaves_no_file(tmp_path):
    filters = Filters(min_chars=1, max_chars=None, deduplicate=False)
    pairs = tail_split(TEXTS, 0.1, filters, tmp_path)
    next(pairs)
    pairs.close()
    assert list(tmp_path.iterdir()) == []


def test_source_keeps_its_own_splits_and_drops_validation_texts_seen_in_training():
    result, filters, _ = split(["a", "b", "a"], ["b", "c"], validation="source", validation_fraction=None)
    assert result == {"train": ["a", "b"], "val": ["c"]}
    assert filters.removed["duplicate"] == 2
    assert filters.read == 5


@pytest.mark.parametrize("validation", ["random", "tail"])
def test_copies_of_a_text_are_never_in_both_splits(tmp_path, validation):
    result, _, _ = split(TEXTS[:50] * 3, folder=tmp_path, validation=validation, validation_fraction=0.3)
    assert Counter(result["train"] + result["val"]).most_common(1)[0][1] == 1
    assert not set(result["train"]) & set(result["val"])


def test_without_deduplication_copies_are_kept():
    result, _, _ = split(["a", "a"], ["a"], validation="source", validation_fraction=None, deduplicate=False)
    assert result == {"train": ["a", "a"], "val": ["a"]}


def test_filters_come_before_the_split(tmp_path):
    result, _, _ = split(["x" * 100, "abcdefghij"], folder=tmp_path, validation="tail", max_chars=50)
    assert result == {"train": ["abcdefghi"], "val": ["j"]}


def test_limits_take_the_first_documents_of_each_split():
    free, _, _ = split(TEXTS)
    result, _, limits = split(TEXTS, max_train_documents=20, max_val_documents=30)
    assert result == {"train": free["train"][:20], "val": free["val"][:30]}
    assert limits.stopped_early
    assert limits.over > 0
    result, _, limits = split(TEXTS, max_val_documents=3)
    assert result == {"train": free["train"], "val": free["val"][:3]}
    assert not limits.stopped_early
    assert limits.over == len(free["val"]) - 3


def test_tail_reads_the_whole_source_and_counts_all_documents_over_the_limits(tmp_path):
    _, _, limits = split(
        TEXTS[:100], folder=tmp_path, validation="tail", validation_fraction=0.5, max_train_documents=3,
        max_val_documents=2,
    )  # fmt: skip
    assert not limits.stopped_early
    assert limits.over == 96  # one document is split in two


@pytest.mark.parametrize("validation", ["random", "source"])
def test_reading_stops_when_the_limits_are_reached(validation):
    def endless():
        number = 0
        while True:
            number += 1
            yield f"{number}"

    fraction = 0.5 if validation == "random" else None
    result, _, _ = split(
        endless(), endless() if fraction is None else None, validation=validation, validation_fraction=fraction,
        max_train_documents=5, max_val_documents=4, deduplicate=False,
    )  # fmt: skip
    assert (len(result["train"]), len(result["val"])) == (5, 4)


def test_an_empty_split_is_explained():
    filters = Filters(min_chars=1, max_chars=None, deduplicate=False)
    assert "no documents in the source (dataset.source = stories)" in explain_empty("train", params(), filters)
    list(filters.apply(["a", ""]))
    line = explain_empty("val", params(), filters)
    assert line.startswith("no documents in the validation split (2 read; removed by filters: 1 blank); ")
    assert "raise dataset.validation_fraction = 0.1" in line
    assert "dataset.min_chars" in explain_empty("train", params(), filters)
    assert "splits" in explain_empty("val", params(validation="source", validation_fraction=None), filters)


def local(**changes):
    return load_params("dataset", read_yaml(ROOT / "configs/dataset/local.yaml")["dataset"] | changes, SOURCES)


@pytest.mark.parametrize("empty", ["train", "val"])
@pytest.mark.parametrize(
    ("dataset", "advice"),
    [
        (local(), "split the text with dataset.separator, or set dataset.validation = tail"),
        (
            local(separator="\n\n"),
            r"dataset.separator = '\n\n' does not split the text (lines may end with '\r\n'); set one that "
            "does, or dataset.validation = tail",
        ),
        (local(format="jsonl"), "set dataset.validation = tail"),
    ],
)
def test_one_document_that_random_cannot_split_is_explained(empty, dataset, advice):
    filters = Filters(min_chars=1, max_chars=None, deduplicate=False)
    list(filters.apply(["a whole book"]))
    line = explain_empty(empty, dataset, filters)
    assert line.endswith(f" split (1 read); {advice}")
    assert "\n" not in line
