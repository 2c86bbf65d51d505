"""Makes the exam of the validation stories from what their generator knows: the loss floor, and questions with answers.

A question is about a position in a story at which the next words follow from the text before; plots.txt marks these
slots. The choices are the words of the story, and the other children, things, places or colors mentioned so far.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tiny_lm.exam import Exam, Question
from tiny_lm.executor import Executor
from tiny_lm.stories.generator import Slot, Story, story

STORIES_IN_PART = 250
MAX_STORIES = 1000  # a larger validation split does not make the exam longer
CHILDREN, THINGS = ("A", "B", "C"), ("x", "y", "z", "w", "r", "c", "cw", "cu")
KINDS = (CHILDREN, THINGS, ("h1", "h2", "h3", "h4"), ("c1", "c2", "c3", "c4", "c5"))
_SENTENCE_END = re.compile(r'[.?!]"? |\n\n')
_BOUNDARY = re.compile(r"(?<=\S) (?=[A-Za-z])")  # where each of our tokenizers begins a new token


@dataclass(frozen=True)
class Stories:
    """Consecutive stories of the validation split: `numbers` in the generator; `first` is a number in the split."""

    seed: int
    first: int
    numbers: tuple[int, ...]


def make_exam(executor: Executor, seed: int, numbers: Sequence[int], kept: float) -> Exam:
    """The exam about the stories with these numbers, which are the validation split, in order.

    `kept` is the fraction of all stories that pass the filters: such a story is 1 / P(kept) times as probable as
    without filters. The random split changes no probability, because a model cannot predict the hash.
    """
    asked: list[Question] = []
    nats = 0.0
    parts = (
        Stories(seed, first, tuple(numbers[first : first + STORIES_IN_PART]))
        for first in range(0, len(numbers), STORIES_IN_PART)
    )
    for of_stories, of_part in executor.ordered(examine, parts):
        for story_nats in of_stories:
            nats += story_nats
        asked += of_part
    return Exam((nats + len(numbers) * math.log(kept)) / math.log(2), tuple(asked))


def examine(part: Stories) -> tuple[list[float], list[Question]]:
    """The nats of the choices behind each story, and the questions about the first MAX_STORIES of the split."""
    stories = [story(part.seed, number) for number in part.numbers]
    asked = [
        question
        for document, text in enumerate(stories, part.first)
        if document < MAX_STORIES
        for question in questions(text, document)
    ]
    return [text.nats for text in stories], asked


def questions(story: Story, document: int) -> Iterator[Question]:
    """Yields the questions about a story, in order."""
    ends = [match.end() for match in _SENTENCE_END.finditer(story)]
    boundaries = [match.start() for match in _BOUNDARY.finditer(story)]
    sentences: list[list[Slot]] = [[] for _ in range(len(ends) + 1)]  # the slots so far, by sentence
    for slot in story.slots:
        number = bisect(ends, slot.start)
        words = {earlier.word for sentence in sentences for earlier in sentence}
        kind = next((kind for kind in KINDS if slot.word in kind), ())
        answer = _text_of(story, slot.word, slot.form)
        others = {_text_of(story, word, slot.form) for word in kind if word in words} - {answer}
        if slot.skill and slot.word in words and others:
            cut = boundaries[bisect(boundaries, slot.start) - 1]
            before = story[cut : slot.start]
            asked = {earlier.word for earlier in sentences[number] or sentences[number - 1]}
            thing = next((word for word in (slot.word, *sorted(asked)) if word in THINGS), None)
            yield Question(
                document=document,
                skill=slot.skill,
                context=story[:cut],
                choices=(*(before + other for other in sorted(others)), before + answer),
                fact=min(_fact(story, slot, sentences[: number + 1], asked), cut),
                handovers=sum(
                    "gave" in story[start:end] and any(earlier.word == thing for earlier in sentence)
                    for start, end, sentence in zip([0, *ends], ends, sentences[:number], strict=False)
                ),
            )
        sentences[number].append(slot)


def _text_of(story: Story, word: str, form: str) -> str:
    value = story.words[word]
    return getattr(value, form) if form else value


def _fact(story: Story, slot: Slot, sentences: list[list[Slot]], asked: set[str]) -> int:
    """The end of the answer's mention in the last of the sentences that contain most of the words asked about."""
    stated = [sentence for sentence in sentences if any(earlier.word == slot.word for earlier in sentence)]
    best = max(stated, key=lambda sentence: (len(asked & {earlier.word for earlier in sentence}), sentence[0].start))
    mention = next(earlier for earlier in reversed(best) if earlier.word == slot.word)
    return mention.start + len(_text_of(story, mention.word, mention.form))
