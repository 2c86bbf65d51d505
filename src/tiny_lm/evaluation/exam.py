"""The exam: how probable a model finds each choice of a question, after its context.

A choice is scored by the sum of the log-probabilities of its tokens. An answer is right if the right choice has more
than each of the others: a tie is wrong. As in lm-evaluation-harness, there is no <bos>, and a context that is too long
loses its beginning.

The questions about a story begin alike. So each story is read once into a cache of keys and values, and the tokens of a
choice continue a copy of its part before the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from tiny_lm.evaluation.accuracy import AccuracyByDistance, wilson
from tiny_lm.exam import SKILLS, Question
from tiny_lm.io.params import check
from tiny_lm.model.transformer import KVCache, Transformer
from tiny_lm.tokenizer.encode import Tokenizer


@dataclass(frozen=True)
class Answer:
    question: Question
    distance: int  # tokens from the fact to the question
    margin: float  # log-probability of the right choice minus that of the best other one, in nats

    @property
    def right(self) -> bool:
        return self.margin > 0


@dataclass
class _Branch:
    """Tokens whose log-probability after the first `start` tokens of a row is asked for."""

    row: int
    start: int
    tokens: list[int]
    nats: float = 0.0


def check_context(context_length: int, tokenizer: Tokenizer, questions: Sequence[Question]) -> None:
    """Raises ValueError if a choice of a question has more tokens than the model's context."""
    choices = {choice for question in questions for choice in question.choices}
    longest = max((len(tokenizer.encode(choice)) for choice in choices), default=0)
    allowed = f"at least {longest}, the tokens of the longest choice in data/exam"
    check(context_length >= longest, "model.context_length", context_length, allowed)


def take_exam(model: Transformer, tokenizer: Tokenizer, questions: Sequence[Question], batch_size: int) -> list[Answer]:
    """The answers, in the order of the questions; those of one document are next to each other."""
    rows: list[list[int]] = []
    branches: list[list[_Branch]] = []  # of each question
    distances: list[int] = []
    for _, group in groupby(questions, key=lambda question: question.document):
        shared, row = len(rows), list[int]()
        rows.append(row)
        for question in group:
            context = tokenizer.encode(question.context).tolist()
            if len(context) > len(row):
                row[:] = context
            distances.append(len(tokenizer.encode(question.context[question.fact :] or " ")))
            some = []
            for choice in question.choices:
                tokens = tokenizer.encode(choice).tolist()
                most = model.params.context_length + 1 - len(tokens)  # tokens of context that the model can see
                if len(context) <= most:
                    some.append(_Branch(shared, len(context), tokens))
                else:
                    rows.append(context[-most:])
                    some.append(_Branch(len(rows) - 1, most, tokens))
            branches.append(some)
        del row[model.params.context_length :]
    _score(model, rows, [branch for some in branches for branch in some], batch_size)
    answers = []
    for question, distance, some in zip(questions, distances, branches, strict=True):
        *others, right = (-branch.nats for branch in some)
        answers.append(Answer(question, distance, right - max(others)))
    return answers


@torch.inference_mode()
def _score(model: Transformer, rows: Sequence[Sequence[int]], branches: Sequence[_Branch], batch_size: int) -> None:
    """Sets the nats of all branches; rows of similar length share a batch."""
    of_row: dict[int, list[_Branch]] = {}
    for branch in branches:
        of_row.setdefault(branch.row, []).append(branch)
    order = sorted(of_row, key=lambda row: len(rows[row]))
    weight = model.token_emb.weight
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        longest = max(len(rows[row]) for row in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
        for i, row in enumerate(batch):
            tokens[i, : len(rows[row])] = torch.tensor(rows[row])
        cache = KVCache(model.params, len(batch), longest, weight)
        slots = cache.prefill(torch.arange(len(batch), device=weight.device), longest)
        features = model.features(tokens.to(weight.device), slots)  # (B, T, d_model)
        some = [(i, branch) for i, row in enumerate(batch) for branch in of_row[row]]
        index = torch.tensor([[i, branch.start - 1] for i, branch in some], device=weight.device).t()
        logits = model.head(features[index[0], index[1]])  # (branches, V)
        _add(logits, [branch for _, branch in some], 0)
        longer = sorted((pair for pair in some if len(pair[1].tokens) > 1), key=lambda pair: -len(pair[1].tokens))
        for start in range(0, len(longer), 4 * batch_size):
            _continue(model, cache, longer[start : start + 4 * batch_size])


def _continue(model: Transformer, cache: KVCache, branches: Sequence[tuple[int, _Branch]]) -> None:
    """Adds the nats of the tokens after the first. `branches` are (row of the cache, branch), longest first."""
    most = len(branches[0][1].tokens)
    device = cache.memory.device
    length = max(branch.start for _, branch in branches)
    copy = KVCache(model.params, len(branches), length + most, cache.memory)
    copy.memory[..., :length, :] = cache.memory[:, :, [row for row, _ in branches], :, :length]
    for step in range(most - 1):
        active = [branch for _, branch in branches if len(branch.tokens) > step + 1]
        positions = torch.tensor([branch.start + step for branch in active], device=device)
        tokens = torch.tensor([[branch.tokens[step]] for branch in active], device=device)
        logits = model.next_logits(tokens, copy.step(positions, int(positions.max()) + 1, masked=True))
        _add(logits, active, step + 1)


def _add(logits: Tensor, branches: Sequence[_Branch], number: int) -> None:
    """Adds the nats of token `number` of each branch."""
    targets = torch.tensor([branch.tokens[number] for branch in branches], device=logits.device)
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
    for branch, value in zip(branches, nats, strict=True):
        branch.nats += value


def exam_metrics(answers: Sequence[Answer]) -> dict[str, object]:
    """Accuracy of all questions and of each skill, its 95 % interval (Wilson 1927), chance level and number."""
    metrics: dict[str, object] = {**_accuracy(answers)}
    for skill, name in SKILLS.items():
        if some := [answer for answer in answers if answer.question.skill == skill]:
            metrics[name.replace(" ", "_")] = _accuracy(some)
    return metrics


def _accuracy(answers: Sequence[Answer]) -> dict[str, float]:
    right, n = sum(answer.right for answer in answers), len(answers)
    low, high = wilson(right, n)
    chance = sum(1 / len(answer.question.choices) for answer in answers) / n
    return {"accuracy": right / n, "low": low, "high": high, "chance": chance, "questions": n}


def accuracy_by_distance(answers: Sequence[Answer]) -> AccuracyByDistance:
    groups = AccuracyByDistance()
    groups.add(
        np.array([answer.distance for answer in answers], np.int64),
        np.array([answer.right for answer in answers], bool),
    )
    return groups
