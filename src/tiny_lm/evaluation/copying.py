"""Copying: does a model predict a rare word again that it has just read?

Counted are words (words.py) that are rarer in the training split than one word in 10,000, and that occurred before in
the same window. The prediction of the first token is right if it is the most probable one. It is usually the hardest
token of the word, because nothing of the word has been seen yet, and a model that knows only how frequent words are
gets next to none right. What the same model achieves without copying is its accuracy at the first mentions of the same
words.

Arora et al. 2023 (Zoology, arXiv 2312.04927) also measure recall on any text, by the tokens that complete a pair of
tokens that occurred before in the context and is rare in training. Olsson et al. 2022 (arXiv 2209.11895) describe
induction heads, which do such copying.
"""

from __future__ import annotations

import numpy as np

from tiny_lm.evaluation.accuracy import AccuracyByDistance, wilson
from tiny_lm.evaluation.predictions import Predictions
from tiny_lm.evaluation.training_counts import TrainingCounts
from tiny_lm.evaluation.words import Words

RARE = 10_000  # a word is rare if it is less than one word in so many


class Copying:
    """Sums over repeated rare words by distance, and over their first mentions."""

    def __init__(self, words: Words, counts: TrainingCounts, pad_id: int) -> None:
        self.words, self.counts, self.pad_id = words, counts, pad_id
        self.repeated = AccuracyByDistance()  # tokens from the start of the last occurrence to this one's
        self.first = self.first_right = 0

    def add(self, batch: Predictions) -> None:
        tokens = np.concatenate([batch.x[:, :1], np.where(batch.is_target, batch.y, self.pad_id)], axis=1)  # (B, T + 1)
        found = self.words.find(tokens)
        rare = self.counts.words(found.key).astype(np.int64) * RARE < self.counts.total_words
        row, start, key = found.row[rare], found.start[rare], found.key[rare]
        order = np.lexsort((start, key, row))
        row, start, key = row[order], start[order], key[order]
        again = np.zeros(len(row) + 1, bool)  # the word before, in this order, is the same in the same window
        again[1:-1] = (row[1:] == row[:-1]) & (key[1:] == key[:-1])
        again, first = again[:-1], ~again[:-1] & again[1:]
        right = batch.top[row, start - 1] == batch.y[row, start - 1]
        self.repeated.add((start - np.roll(start, 1))[again], right[again])
        self.first += int(first.sum())
        self.first_right += int(right[first].sum())

    def metrics(self) -> dict[str, float] | None:
        """Accuracy, its 95 % interval (Wilson 1927), the accuracy at first mentions and the number of repeated words;
        None without any.
        """
        words, right = int(self.repeated.answers.sum()), int(self.repeated.right.sum())
        if not words:
            return None
        low, high = wilson(right, words)
        first = self.first_right / self.first
        return {"accuracy": right / words, "low": low, "high": high, "first_mention": first, "words": words}
