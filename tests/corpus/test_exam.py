"""Exam questions: the context implies the answer, rules out the other choices, and contains the fact."""

import random
import re

import pytest
from stories.inverse import can_begin

from tiny_lm.corpus import exam as exam_file
from tiny_lm.corpus.exam import make_exam, questions
from tiny_lm.exam import SKILLS
from tiny_lm.executor import InProcess
from tiny_lm.stories.generator import story

STORIES = [story(4, index) for index in range(400)]
QUESTIONS = [question for number, text in enumerate(STORIES) for question in questions(text, number)]


def test_there_are_many_questions_of_every_skill() -> None:
    assert len(QUESTIONS) > 3000
    for skill in SKILLS:
        assert sum(question.skill == skill for question in QUESTIONS) > 100
    assert {len(question.choices) for question in QUESTIONS} >= {2, 3}
    assert {question.handovers for question in QUESTIONS} >= {0, 1, 2}


def test_the_answer_continues_the_story_and_the_other_choices_are_in_the_context() -> None:
    for question in QUESTIONS:
        text = STORIES[question.document]
        *others, right = question.choices
        assert text.startswith(question.context + right)
        assert not any(text.startswith(question.context + other) for other in others)
        assert right.startswith(" ")
        assert not question.context.endswith((" ", "\n"))
        for choice in question.choices:  # at least the noun of a thing, or the end of a place
            assert re.search(re.escape(choice.split()[-1].strip('"').lower()), question.context.lower())


def test_the_fact_is_the_last_mention_of_the_answer_together_with_the_words_asked_about() -> None:
    text = next(text for text in STORIES if re.search(r"Where did you hide\?", text) and "Where was" not in text)
    question = list(questions(text, 0))[-1]
    child = re.search(r"asked (\w+)|day, (\w+),|with (\w+)\.", text[text.rindex("\n\n", 0, text.index("Where did")) :])
    assert child
    name = next(group for group in child.groups() if group)
    place = question.choices[-1].split('"')[-1].lower()
    assert question.context[: question.fact].endswith(f"{name} hid {place}")
    assert question.skill == "where"


@pytest.mark.parametrize("seed", range(8))
def test_no_story_continues_with_a_wrong_choice(seed: int) -> None:
    """The inverse of the generator finds no story that begins like that."""
    for question in random.Random(seed).sample(QUESTIONS, 3):
        *others, right = question.choices
        assert can_begin(question.context + right)
        assert not any(can_begin(question.context + other) for other in others), question


def test_slots_are_marked_with_every_skill() -> None:
    marked = {slot.skill for text in STORIES for slot in text.slots}
    assert marked == {"", *SKILLS}


def test_a_long_validation_split_makes_the_exam_no_longer_but_all_of_it_counts_for_the_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exam_file, "STORIES_IN_PART", 2)
    short, long = (make_exam(InProcess(), 4, range(count), 1.0) for count in (5, 9))
    assert len(long.questions) > len(short.questions)
    monkeypatch.setattr(exam_file, "MAX_STORIES", 5)
    limited = make_exam(InProcess(), 4, range(9), 1.0)
    assert limited.questions == short.questions
    assert limited.floor_bits == long.floor_bits
