"""Copying of rare words against a search in the text."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.evaluation import copying as module
from tiny_lm.evaluation.accuracy import wilson
from tiny_lm.evaluation.copying import Copying
from tiny_lm.evaluation.predictions import Predictions
from tiny_lm.evaluation.training_counts import TrainingCounts
from tiny_lm.evaluation.words import Words
from tiny_lm.shards.stream import TokenStream
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer

TRAINING = [story(5, index) for index in range(200)]
READ = [story(6, index) for index in range(30)]
RARE = 1000  # in so few stories, no word that occurs is rarer than one in 10,000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TRAINING, TokenizerParams(vocab_size=600, pattern="gpt4-digits2"))


@pytest.fixture(scope="module")
def counts(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TrainingCounts:
    folder = tmp_path_factory.mktemp("shards")
    ids = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "eos", "bos", "unk")}
    write_shards(
        folder, {"train": TRAINING, "val": ["a"]}, tokenizer.encode_documents, ShardsParams(shard_tokens=10_000),
        vocab_size=tokenizer.vocab_size, special_ids=ids, tokenizer=tokenizer.digest, workers=1,
    )  # fmt: skip
    return TrainingCounts(TokenStream(folder, "train"), Words(tokenizer))


@pytest.fixture
def copying(tokenizer: Tokenizer, counts: TrainingCounts, monkeypatch: pytest.MonkeyPatch) -> Copying:
    monkeypatch.setattr(module, "RARE", RARE)
    return Copying(Words(tokenizer), counts, tokenizer.pad_id)


def windows(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(x, y) of one window for each text."""
    rows = [tokenizer.encode_documents([text]) for text in texts]
    width = max(map(len, rows)) - 1
    x, y = np.full((len(rows), width), tokenizer.pad_id), np.full((len(rows), width), -100)
    for i, ids in enumerate(rows):
        x[i, : len(ids) - 1], y[i, : len(ids) - 1] = ids[:-1], ids[1:]
    return x, y


def test_accuracies_are_those_of_a_search_in_the_text(
    tokenizer: Tokenizer, copying: Copying, predictions: Callable[..., Predictions]
) -> None:
    frequency = Counter(word for text in TRAINING for word in re.findall(r"\w+", text))
    x, y = windows(tokenizer, READ)
    top = np.where(np.random.default_rng(0).random(y.shape) < 0.7, y, 0)
    repeated, first = list[tuple[int, bool]](), list[bool]()  # (distance, right), right
    for row, text in enumerate(READ):
        ends = np.cumsum([len(tokenizer.decode_bytes([i])) for i in tokenizer.encode(text)])
        places, firsts, again = dict[str, int](), dict[str, bool](), set[str]()
        for match in re.finditer(r"\w+", text):
            word, place = match[0], int(np.searchsorted(ends, match.start(), side="right"))  # ASCII: bytes = characters
            if frequency[word] * RARE < frequency.total():
                right = top[row, place] == y[row, place]
                if word in places:
                    repeated.append((place - places[word], right))
                    again.add(word)
                else:
                    firsts[word] = right
                places[word] = place
        first += [firsts[word] for word in again]
    for rows in (slice(7), slice(7, None)):
        copying.add(predictions(x[rows], y[rows], top=top[rows]))
    right, n = sum(right for _, right in repeated), len(repeated)
    low, high = wilson(right, n)
    expected = {"accuracy": right / n, "low": low, "high": high, "first_mention": np.mean(first), "words": n}
    assert copying.metrics() == pytest.approx(expected)
    assert copying.first == len(first) > 20 < n
    groups = dict[int, list[tuple[int, bool]]]()
    for distance, was_right in repeated:
        groups.setdefault(max(distance, 2).bit_length(), []).append((distance, was_right))
    assert list(copying.repeated.curve()) == [
        pytest.approx((*np.mean(groups[key], axis=0), len(groups[key]))) for key in sorted(groups)
    ]


def test_a_window_does_not_remember_other_windows(
    tokenizer: Tokenizer, copying: Copying, predictions: Callable[..., Predictions]
) -> None:
    x, y = windows(tokenizer, ["A zebra, she said.", "A zebra, she said.", "No zebra? A zebra!"])
    copying.add(predictions(x, y, top=y))
    metrics = copying.metrics()
    assert metrics is not None
    assert (metrics["words"], metrics["accuracy"], metrics["first_mention"]) == (1, 1, 1)
    copying.add(predictions(x, y, top=y + 1))
    metrics = copying.metrics()
    assert metrics is not None
    assert (metrics["words"], metrics["accuracy"], metrics["first_mention"]) == (2, 0.5, 0.5)


def test_words_of_the_same_letters_are_the_same_and_frequent_ones_do_not_count(
    tokenizer: Tokenizer, copying: Copying, predictions: Callable[..., Predictions]
) -> None:
    x, y = windows(tokenizer, ['The the Zebra and the "Zebra" and a_zebra and the zebra.'])
    copying.add(predictions(x, y, top=y))
    assert int(copying.repeated.answers.sum()) == 1  # Zebra; zebra and a_zebra are others
    assert copying.first == 1


def test_without_a_repeated_rare_word_there_is_nothing_to_report(
    tokenizer: Tokenizer, copying: Copying, predictions: Callable[..., Predictions]
) -> None:
    assert copying.metrics() is None
    for text in ("", ".", "the the", "zebra"):
        x, y = windows(tokenizer, [text])
        copying.add(predictions(x, y, top=y))
    assert copying.metrics() is None
    assert list(copying.repeated.curve()) == []
