import json
import os
import random
import resource
from collections import Counter
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from corpora import references
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from tiny_lm.corpus import drafts, duplicates, write
from tiny_lm.corpus.mixture import DATASETS, Component, Share, components, sizes_by_weight
from tiny_lm.corpus.sources.base import Source, Texts
from tiny_lm.corpus.sources.local import LocalParams
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.split import SPLITS, select_documents
from tiny_lm.corpus.write import write_split
from tiny_lm.documents import read_documents
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params, read_yaml

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # for thousands of small files

# ---- params

STORIES = {"weight": 1, "source": "stories"}


def load(*sources, **changes):
    return load_params("dataset", {"source": "mixture", "sources": list(sources)} | changes, DATASETS)


def test_a_source_has_the_keys_of_a_single_one_and_a_share():
    local = {"weight": 3, "source": "local", "path": "data/raw/notes", "min_chars": 200, "max_epochs": 4}
    first, second = components(load(STORIES, local, seed=7, deduplicate=False))
    assert first == Component("dataset.sources.0", StoriesParams(seed=7, deduplicate=False), Share(weight=1.0))
    assert second.params == LocalParams(path="data/raw/notes", min_chars=200, seed=7, deduplicate=False)
    assert (second.section, second.share) == ("dataset.sources.1", Share(weight=3.0, max_epochs=4))
    single = load_params("dataset", {"source": "stories"}, DATASETS)
    assert components(single) == (Component("dataset", single),)


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ([], {}, r"dataset.sources = \[\]: must be a list of sources, each with a weight"),
        (["stories"], {}, "dataset.sources = 'stories': must be a section of keys"),
        ([STORIES], {"seed": -1}, "dataset.seed = -1: must be 0 or more"),
        ([STORIES], {"min_chars": 5}, "dataset.min_chars: unknown key with dataset.source = mixture; allowed: s"),
        ([STORIES, {"source": "stories"}], {}, "dataset.sources.1.weight: missing; set the share of the training text"),
        ([STORIES | {"weight": 0}], {}, "dataset.sources.0.weight = 0.0: must be above 0"),
        ([STORIES | {"weight": -1.5}], {}, "dataset.sources.0.weight = -1.5: must be above 0"),
        ([STORIES | {"weight": float("inf")}], {}, "dataset.sources.0.weight = inf: must be a finite number"),
        ([STORIES | {"weight": "x"}], {}, "dataset.sources.0.weight = 'x': must be a finite number"),
        ([STORIES | {"max_epochs": 0}], {}, "dataset.sources.0.max_epochs = 0: must be between 1 and 1000"),
        ([STORIES | {"max_epochs": 1.5}], {}, "dataset.sources.0.max_epochs = 1.5: must be a whole number"),
        ([{"weight": 1}], {}, "dataset.sources.0.source: must be one of stories, huggingface, local"),
        ([STORIES | {"source": "mixture"}], {}, "dataset.sources.0.source = 'mixture': must be one of stories, "),
        (
            [STORIES | {"glob": "*"}],
            {},
            "dataset.sources.0.glob: unknown key with source = stories; allowed: weight, max_epochs, source, path, ",
        ),
        ([STORIES | {"min_chars": 0}], {}, "dataset.sources.0.min_chars = 0: must be 1 or more"),
        ([STORIES | {"seed": 1}], {}, "dataset.sources.0.seed = 1: must be dataset.seed = 0"),
        ([STORIES | {"deduplicate": False}], {}, "dataset.sources.0.deduplicate = False: must be dataset.deduplicate"),
        (
            [{"weight": 1, "source": "local", "path": "texts"}],
            {},
            "dataset.sources.0.path = 'texts': must be in dataset.path = 'data/raw', the folder that DVC watches",
        ),
        ([{"weight": 1, "source": "local", "path": "data/raw/../x"}], {}, "dataset.sources.0.path = .*: must be in "),
    ],
)  # fmt: skip
def test_invalid_mixtures_are_refused_in_one_line(sources, changes, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        load(*sources, **changes)
    assert "\n" not in str(error.value)


def test_a_list_of_sources_next_to_a_single_source_is_refused():
    with pytest.raises(ValueError, match="^dataset.sources: unknown key with dataset.source = stories; allowed: "):
        load_params("dataset", {"source": "stories", "sources": [STORIES]}, DATASETS)


def test_errors_name_the_key_of_the_source():
    component = components(load(STORIES, {"weight": 1, "source": "huggingface"}))[1]
    with (
        pytest.raises(
            ValueError, match=r"^dataset\.sources\.1\.name = 'a': see dataset\.sources\.1\.field, dataset\.x$"
        ),
        component.errors(),
    ):
        raise ValueError("dataset.name = 'a': see dataset.field, dataset.x")


def test_dvc_exp_run_sets_a_weight(tmp_path):
    from dvc.utils.hydra import apply_overrides  # what `-S` calls

    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"dataset": {"source": "mixture", "sources": [STORIES, STORIES]}}))
    apply_overrides(str(path), ["dataset.sources.1.weight=0.25"])
    first, second = components(load_params("dataset", read_yaml(path)["dataset"], DATASETS))
    assert (first.share.weight, second.share.weight) == (1.0, 0.25)


# ---- shares


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.integers(1, 4)), min_size=1, max_size=5),
    st.integers(0, 10),
)
def test_sizes_are_the_largest_that_have_the_shares_and_exist(sources, doublings):
    available = [size for size, _, _ in sources]
    shares = [Share(weight=weight * 2.0**doublings, max_epochs=epochs) for _, weight, epochs in sources]
    sizes = sizes_by_weight(available, shares)
    assert any(size == most * share.max_epochs for size, most, share in zip(sizes, available, shares, strict=True))
    assert all(0 < size <= most * share.max_epochs for size, most, share in zip(sizes, available, shares, strict=True))
    weights = [Fraction(weight) for _, weight, _ in sources]
    for size, weight in zip(sizes, weights, strict=True):  # exact, up to the last byte
        assert abs(size - sum(sizes) * weight / sum(weights)) <= len(sizes)


def test_one_source_is_taken_whole():
    assert sizes_by_weight([12345], [Share(weight=0.3)]) == [12345]
    assert sizes_by_weight([100, 400], [Share(weight=1), Share(weight=1)]) == [100, 100]
    assert sizes_by_weight([100, 400], [Share(weight=1, max_epochs=3), Share(weight=1)]) == [300, 300]


# ---- documents


def build(sources, size=300, executor=None):
    """The files of each split as lists of texts, the selections, and the counts and runs of each split."""

    def parts_of(documents):
        documents = iter(documents)
        return map(Texts, iter(lambda: list(islice(documents, size)), []))

    inputs = [
        (
            Component(f"dataset.sources.{i}", params, share),
            Source(parts_of(train), val and parts_of(val), None, {}),
        )
        for i, (train, val, params, share) in enumerate(sources)
    ]
    executor = executor or InProcess()
    files, counts, runs = {}, {}, {}
    with TemporaryDirectory(dir=MEMORY) as name, tqdm(disable=True) as bar:
        folder = Path(name)
        selections = select_documents(inputs, executor, folder, bar)
        for split in SPLITS:
            segments = [selection.splits[split] for selection in selections]
            sizes = [sum(segment.bytes for segment in each) for each in segments]
            if split == "train" and all(sizes):
                sizes = sizes_by_weight(sizes, [share for *_, share in sources])
            _, counts[split], runs[split] = write_split(executor, folder / "corpus", split, segments, sizes)
            files[split] = [
                list(read_documents(path)) for path in sorted((folder / "corpus" / split).glob("*.parquet"))
            ]
    return files, selections, counts, runs


def order(sources, sizes, file_bytes, round_bytes):
    """(file, text, source) of the documents of a split: each goes where its first byte goes."""
    total, placed = sum(sizes), []
    for source, (texts, size) in enumerate(zip(sources, sizes, strict=True)):
        at, number = 0, 0
        while at < size:
            text = texts[number % len(texts)]
            file = next(f for f in range(total) if at < size * min((f + 1) * file_bytes, total) // total)
            starts = [s * min(f * file_bytes, total) // total for s in sizes for f in (file, file + 1)]
            lengths = [end - start for start, end in zip(starts[::2], starts[1::2], strict=True)]
            rounds = ceil(sum(lengths) / round_bytes)
            offset, length = at - starts[2 * source], lengths[source]
            turn = next(r for r in range(rounds) if offset < length * (r + 1) // rounds)
            placed.append((file, turn, source, number, text))
            at, number = at + len(text.encode()), number + 1
    return [(file, text, source) for file, _, source, _, text in sorted(placed)]


TEXTS = ["", " ", "a", "b", "é", "ab", "ba", "aba", "é🙂b", "bbbb", "aaaaaaaa", *"cdefgh", *(c * 9 for c in "ijkl")]


class Params(StoriesParams):
    def __post_init__(self):
        """No checks, so that tests can combine any values."""


def random_source(rng, deduplicate):
    """(train, val, params, share) of a source of few short texts, so that many occur in several sources."""
    validation = rng.choice(["random", "random", "tail", "source"])
    params = Params(
        validation=validation,
        validation_fraction=None if validation == "source" else rng.choice([0.2, 0.4]),
        min_chars=rng.choice([1, 1, 2]),
        max_chars=rng.choice([None, None, 4]),
        max_train_documents=rng.choice([None, 2, 3]),
        max_val_documents=rng.choice([None, 1, 2]),
        deduplicate=deduplicate,
    )
    train = rng.choices(TEXTS, k=rng.randrange(25))
    val = rng.choices(TEXTS, k=rng.randrange(1, 6)) if validation == "source" else None
    return train, val, params, Share(weight=rng.choice([0.1, 0.5, 1.0, 3.0]), max_epochs=rng.randint(1, 3))


@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(200, 400, 50)])
def test_a_mixture_is_that_of_one_pass_over_streams_however_documents_are_divided(seeds):
    for seed in seeds:
        compare_with_reference(random.Random(seed))


def compare_with_reference(rng):
    deduplicate, size, round_ = rng.random() < 0.8, rng.randint(1, 9), rng.randint(3, 20)
    sources = [random_source(rng, deduplicate) for _ in range(rng.randint(1, 3))]
    expected = references([source[:3] for source in sources])
    with (
        patch.object(drafts, "CHUNK_DOCUMENTS", size),
        patch.object(duplicates, "BUCKET_DOCUMENTS", 20),
        patch.object(write, "FILE_BYTES", 8 * round_),
        patch.object(write, "ROUND_BYTES", round_),
    ):
        files, selections, counts, runs = build(sources, 10 - size)
    for selection, (_, count) in zip(selections, expected, strict=True):
        assert selection.read == count["read"]
        assert selection.removed == {name: count[name] for name in ("blank", "too_short", "too_long", "duplicate")}
        assert (selection.over_limit, selection.stopped_early) == (count["over_limit"], bool(count["stopped_early"]))
    for split in SPLITS:
        texts = [result[split] for result, _ in expected]
        sizes = [sum(len(text.encode()) for text in each) for each in texts]
        if split == "train" and all(sizes):
            sizes = sizes_by_weight(sizes, [share for *_, share in sources])
        placed = order(texts, sizes, 8 * round_, round_ if len(sources) > 1 else 10**6)
        by_file = {}
        for file, text, _ in placed:
            by_file.setdefault(file, []).append(text)
        assert files[split] == list(by_file.values())
        assert [source for source, n in runs[split] for _ in range(n)] == [source for *_, source in placed]
        for number, count in enumerate(counts[split]):
            of_source = [text for _, text, source in placed if source == number]
            assert count == {
                "documents": len(of_source), "characters": sum(map(len, of_source)),
                "bytes": sum(len(text.encode()) for text in of_source),
            }  # fmt: skip


def numbered(name, documents, length=50):
    return [f"{name} {i} ".ljust(length, ".") for i in range(documents)]


def mixture(*sources, **changes):
    """Sources of (texts, weight, max_epochs), half for validation by a hash."""
    return build(
        [
            (texts, None, StoriesParams(validation_fraction=0.5, **changes), Share(weight=weight, max_epochs=epochs))
            for texts, weight, epochs in sources
        ]
    )


def test_every_beginning_of_a_split_has_the_shares():
    documents = numbered("a", 8000), numbered("b", 1500), numbered("c", 6000)
    files, _, counts, _ = mixture(*zip(documents, (5, 1, 2), (1, 1, 1), strict=True))
    train, val = ([text for file in files[split] for text in file] for split in SPLITS)
    assert len(train) == sum(count["documents"] for count in counts["train"])
    for split, texts, shares in (("train", train, (5, 1, 2)), ("val", val, [c["bytes"] for c in counts["val"]])):
        rounds = 2 * write.ROUND_BYTES // 50
        for end in range(500, len(texts), 500):
            found = Counter(text[0] for text in texts[:end])
            for name, share in zip("abc", shares, strict=True):
                assert abs(found[name] - end * share / sum(shares)) <= rounds * share / sum(shares) + 2, (split, end)


def test_the_sizes_of_documents_do_not_matter():
    """The weight is a share of the text, so one source may have far more documents than another."""
    _, _, counts, _ = mixture((numbered("a", 4000, 20), 1, 1), (numbered("b", 400, 1000), 3, 1))
    a, b = counts["train"]
    assert abs(b["bytes"] / (a["bytes"] + b["bytes"]) - 0.75) < 0.01
    assert a["documents"] > 15 * b["documents"]


def test_weights_do_not_change_the_validation_split():
    documents = numbered("a", 300), numbered("b", 200)
    files = [mixture((documents[0], weight, 1), (documents[1], 1, 1))[0] for weight in (0.1, 1, 7)]
    assert files[0]["val"] == files[1]["val"] == files[2]["val"]
    assert len({len(file["train"][0]) for file in files}) == 3


def test_a_source_that_is_too_small_limits_the_mixture_or_is_repeated():
    small, large = numbered("small", 100), numbered("large", 5000)
    (own,) = mixture((small, 1, 1))[2]["train"]
    once, again = (mixture((small, 1, epochs), (large, 1, 1)) for epochs in (1, 3))
    assert [count["documents"] for count in once[2]["train"]] == [own["documents"]] * 2
    assert [count["documents"] for count in again[2]["train"]] == [3 * own["documents"]] * 2
    found = Counter(text for text in again[0]["train"][0] if text.startswith("small"))
    assert set(found.values()) == {3}
    assert Counter(text for text in again[0]["train"][0] if text.startswith("large")).most_common(1)[0][1] == 1
    assert once[0]["val"] == again[0]["val"]


def test_a_file_may_have_text_of_any_number_of_parts():
    """A filter may leave little of each part, and none of them stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, hard))
    try:
        with patch.object(drafts, "CHUNK_DOCUMENTS", 1):
            files, *_ = mixture((numbered("a", 150), 1, 1), (numbered("b", 150), 1, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(files["train"][0]) > 100


def test_the_first_of_two_sources_keeps_a_text_that_is_in_both():
    texts = numbered("x", 100)
    _, (first, second), *_ = mixture((texts, 1, 1), ([*texts[:60], *numbered("y", 100)], 1, 1))
    assert (first.removed["duplicate"], second.removed["duplicate"]) == (0, 60)
    _, (first, second), *_ = mixture((texts, 1, 1), ([*texts[:60], *numbered("y", 100)], 1, 1), deduplicate=False)
    assert (first.removed["duplicate"], second.removed["duplicate"]) == (0, 0)


def test_a_source_changes_nothing_of_those_before_it():
    rng = random.Random(0)
    documents = [[f"{rng.randrange(60)}" for _ in range(100)] for _ in range(3)]
    limits = {"max_train_documents": 9, "max_val_documents": 4}

    def kept(count):
        params = StoriesParams(**limits, validation_fraction=0.3)
        selections = build([(texts, None, params, Share()) for texts in documents[:count]])[1]
        return [(selection.read, selection.removed, selection.over_limit) for selection in selections]

    assert kept(3)[:2] == kept(2)
    assert kept(2)[:1] == kept(1)
