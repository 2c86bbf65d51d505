from collections import Counter
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from corpora import references
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from tiny_lm.corpus import drafts, duplicates
from tiny_lm.corpus.mixture import Component
from tiny_lm.corpus.sources.base import Source, Texts
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.split import Selection, explain_empty, select_documents
from tiny_lm.executor import InProcess
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


def split(train, val=None, size=7, executor=None, **changes):
    """The texts of each split, as they would be written, and the selection. Parts have `size` documents."""
    p = params(**changes)

    def parts_of(documents):
        documents = iter(documents)
        return map(Texts, iter(lambda: list(islice(documents, size)), []))

    source = Source(parts_of(train), None if val is None else parts_of(val), None, {})
    with TemporaryDirectory() as folder, tqdm(disable=True) as bar:
        inputs = [(Component("dataset", p), source)]
        (selection,) = select_documents(inputs, executor or InProcess(), Path(folder), bar)
        texts = {
            name: [data.decode() for segment in segments for data in segment.draft.texts(segment.kept())]
            for name, segments in selection.splits.items()
        }
        for name, segments in selection.splits.items():
            assert sum(segment.bytes for segment in segments) == sum(len(text.encode()) for text in texts[name])
            assert sum(segment.characters for segment in segments) == sum(map(len, texts[name]))
            assert all(segment.documents for segment in segments)
    return texts, selection


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(["", " ", "a", "b", "é", "ab", "ba", "aba", "é🙂b", "bbbb", "aaaaaaaa", *"cdefgh"]), max_size=40
    ),
    st.lists(st.sampled_from(["", "a", "ab", "x", "y"]), max_size=10),
    st.sampled_from(["random", "tail", "source"]),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    st.integers(1, 2),
    st.sampled_from([None, 4]),
    st.booleans(),
    st.sampled_from([None, 1, 3, 6]),
    st.sampled_from([None, 1, 2]),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_the_selection_is_that_of_one_pass_over_a_stream_however_the_documents_are_divided(
    train, val, validation, fraction, shortest, longest, deduplicate, train_limit, val_limit, size, chunk
):
    changes = {
        "validation": validation, "validation_fraction": None if validation == "source" else fraction,
        "min_chars": shortest, "max_chars": longest, "deduplicate": deduplicate, "max_train_documents": train_limit,
        "max_val_documents": val_limit,
    }  # fmt: skip
    val = val if validation == "source" else None
    ((expected, counts),) = references([(train, val, params(**changes))])
    with patch.object(drafts, "CHUNK_DOCUMENTS", chunk), patch.object(duplicates, "BUCKET_DOCUMENTS", 5):
        found, selection = split(train, val, size, **changes)
    assert found == expected
    assert selection.read == counts["read"]
    assert selection.removed == {name: counts[name] for name in ("blank", "too_short", "too_long", "duplicate")}
    assert (selection.over_limit, selection.stopped_early) == (counts["over_limit"], bool(counts["stopped_early"]))


def random(texts, seed, fraction):
    result, _ = split(texts, seed=seed, validation_fraction=fraction)
    return result["train"], result["val"]


TEXTS = [f"document {i}" for i in range(2000)]


def test_random_takes_about_the_fraction():
    for fraction in (0.02, 0.5, 0.9):
        _, val = random(TEXTS, 0, fraction)
        assert abs(len(val) - 2000 * fraction) < 4 * (2000 * fraction * (1 - fraction)) ** 0.5


def test_random_is_the_same_on_every_machine():
    _, val = random(TEXTS[:100], 7, 0.1)
    assert val == [f"document {i}" for i in [10, 13, 33, 57, 79, 90]]


def test_random_keeps_a_documents_split_when_others_are_added_removed_or_reordered():
    before, after = random(TEXTS[:1000], 0, 0.1), random([*reversed(TEXTS), "one more"], 0, 0.1)
    assert all(set(before[i]) < set(after[i]) for i in range(2))


def test_random_depends_on_the_seed():
    assert random(TEXTS, 0, 0.1) != random(TEXTS, 1, 0.1)


def test_a_larger_fraction_includes_the_documents_of_a_smaller_one():
    assert set(random(TEXTS, 0, 0.1)[1]) < set(random(TEXTS, 0, 0.2)[1])


@pytest.mark.parametrize("length", [10, 11, 997, 1000, 12345])
def test_tail_of_one_document_is_nanogpts_split(length):
    data = "".join(chr(33 + i % 90) for i in range(length))
    result, _ = split([data], validation="tail", validation_fraction=0.1)
    n = len(data)
    assert result == {"train": [data[: int(n * 0.9)]], "val": [data[int(n * 0.9) :]]}


def test_tail_cuts_by_characters_of_all_documents_in_order():
    documents = ["a" * 30, "b" * 40, "é" * 20, "d" * 10]
    result, _ = split(documents, validation="tail", validation_fraction=0.25)
    assert result == {"train": ["a" * 30, "b" * 40, "é" * 5], "val": ["é" * 15, "d" * 10]}


def test_tail_between_two_documents_splits_neither():
    result, selection = split(["a" * 5, "b" * 5], validation="tail", validation_fraction=0.5)
    assert result == {"train": ["aaaaa"], "val": ["bbbbb"]}
    assert sum(selection.removed.values()) == 0


def test_a_part_that_equals_a_training_document_does_not_reach_validation():
    result, selection = split(["xyz", "..........xyz"], validation="tail", validation_fraction=0.1875)
    assert result == {"train": ["xyz", ".........."], "val": []}
    assert selection.removed["duplicate"] == 1


def test_source_keeps_its_own_splits_and_drops_validation_texts_seen_in_training():
    result, selection = split(["a", "b", "a"], ["b", "c"], validation="source", validation_fraction=None)
    assert result == {"train": ["a", "b"], "val": ["c"]}
    assert selection.removed["duplicate"] == 2
    assert selection.read == 5


@pytest.mark.parametrize("validation", ["random", "tail"])
def test_copies_of_a_text_are_never_in_both_splits(validation):
    result, _ = split(TEXTS[:50] * 3, validation=validation, validation_fraction=0.3)
    assert Counter(result["train"] + result["val"]).most_common(1)[0][1] == 1
    assert not set(result["train"]) & set(result["val"])


def test_without_deduplication_copies_are_kept():
    result, _ = split(["a", "a"], ["a"], validation="source", validation_fraction=None, deduplicate=False)
    assert result == {"train": ["a", "a"], "val": ["a"]}


def test_filters_come_before_the_split():
    result, _ = split(["x" * 100, "abcdefghij"], validation="tail", max_chars=50)
    assert result == {"train": ["abcdefghi"], "val": ["j"]}


def test_limits_take_the_first_documents_of_each_split():
    free, _ = split(TEXTS)
    result, selection = split(TEXTS, max_train_documents=20, max_val_documents=30)
    assert result == {"train": free["train"][:20], "val": free["val"][:30]}
    assert selection.stopped_early
    assert selection.over_limit > 0
    result, selection = split(TEXTS, max_val_documents=3)
    assert result == {"train": free["train"], "val": free["val"][:3]}
    assert not selection.stopped_early
    assert selection.over_limit == len(free["val"]) - 3


def test_tail_reads_the_whole_source_and_counts_all_documents_over_the_limits():
    _, selection = split(
        TEXTS[:100], validation="tail", validation_fraction=0.5, max_train_documents=3,
        max_val_documents=2,
    )  # fmt: skip
    assert not selection.stopped_early
    assert selection.over_limit == 96  # one document is split in two


@pytest.mark.parametrize("validation", ["random", "source"])
def test_reading_stops_when_the_limits_are_reached(validation):
    def endless():
        number = 0
        while True:
            number += 1
            yield f"{number}"

    fraction = 0.5 if validation == "random" else None
    result, _ = split(
        endless(), endless() if fraction is None else None, validation=validation, validation_fraction=fraction,
        max_train_documents=5, max_val_documents=4, deduplicate=False,
    )  # fmt: skip
    assert (len(result["train"]), len(result["val"])) == (5, 4)


def test_an_empty_split_is_explained():
    assert "no documents in the source (dataset.source = stories)" in explain_empty("train", params(), Selection())
    _, selection = split(["a", ""])
    line = explain_empty("val", params(), selection)
    assert line.startswith("no documents in the validation split (2 read; removed by filters: 1 blank); ")
    assert "raise dataset.validation_fraction = 0.1" in line
    assert "dataset.min_chars" in explain_empty("train", params(), selection)
    assert "splits" in explain_empty("val", params(validation="source", validation_fraction=None), selection)


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
    line = explain_empty(empty, dataset, split(["a whole book"])[1])
    assert line.endswith(f" split (1 read); {advice}")
    assert "\n" not in line
