"""The exam of a model of random weights: scores equal those of plain forward passes, and what is made of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.corpus.exam import questions
from tiny_lm.evaluation.exam import Answer, accuracy_by_distance, check_context, exam_metrics, take_exam
from tiny_lm.exam import Exam, Question
from tiny_lm.io.params import parse_yaml
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer

STORIES = [story(4, index) for index in range(12)]
QUESTIONS = [question for number, text in enumerate(STORIES) for question in questions(text, number)]
PARAMS = {
    "llama3": Llama3Params(
        architecture="llama3", context_length=200, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24
    ),
    "gpt2": GPT2Params(
        architecture="gpt2", context_length=120, d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=24
    ),
}


@pytest.fixture(scope="module", params=["gpt4-digits2", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    texts = (story(9, index) for index in range(200))
    return train_tokenizer(texts, TokenizerParams(vocab_size=600, pattern=request.param), False)


@pytest.fixture(params=list(PARAMS))
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    model = build_model(PARAMS[request.param], tokenizer.vocab_size).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def plain(model: Transformer, tokenizer: Tokenizer, context: str, choice: str) -> float:
    """As the harness scores it: the context and the choice as one text, cut from the left."""
    whole = tokenizer.encode(context + choice).tolist()
    count = len(whole) - len(tokenizer.encode(context))
    ids = torch.tensor([whole[-(model.params.context_length + 1) :]])
    with torch.no_grad():
        logits = model(ids[:, :-1])[0, -count:]
    return -float(F.cross_entropy(logits, ids[0, -count:], reduction="sum"))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_margins_are_those_of_plain_forward_passes(model: Transformer, tokenizer: Tokenizer, batch_size: int) -> None:
    asked = QUESTIONS[:90]
    answers = take_exam(model, tokenizer, asked, batch_size)
    longest = max(len(tokenizer.encode(question.context)) for question in asked)
    assert longest > model.params.context_length  # some contexts are cut
    assert [answer.question for answer in answers] == asked
    for answer in answers:
        question = answer.question
        *others, right = (plain(model, tokenizer, question.context, choice) for choice in question.choices)
        assert answer.margin == pytest.approx(right - max(others), abs=1e-3)
        assert answer.distance == len(tokenizer.encode(question.context[question.fact :] or " "))


def ask(skill: str, choices: int) -> Question:
    others = tuple(f" {i}" for i in range(choices))
    return Question(document=0, skill=skill, context="a", choices=others, fact=0, handovers=0)


def test_a_context_that_is_shorter_than_a_choice_is_refused(tokenizer: Tokenizer) -> None:
    longest = max(len(tokenizer.encode(choice)) for question in QUESTIONS for choice in question.choices)
    assert longest > 1
    check_context(longest, tokenizer, QUESTIONS)
    model = build_model(replace(PARAMS["llama3"], context_length=longest), tokenizer.vocab_size).eval()
    assert len(take_exam(model, tokenizer, QUESTIONS, 4)) == len(QUESTIONS)
    with pytest.raises(ValueError, match=rf"^model.context_length = {longest - 1}: must be at least {longest}, "):
        check_context(longest - 1, tokenizer, QUESTIONS)
    check_context(1, tokenizer, [])


def test_a_tie_is_wrong_and_metrics_are_fractions_with_intervals() -> None:
    answers = [Answer(ask("who", 2), 3, 1.0), Answer(ask("who", 4), 5, 0.0), Answer(ask("next", 2), 6, -1.0)]
    metrics = exam_metrics(answers)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["chance"] == pytest.approx((0.5 + 0.25 + 0.5) / 3)
    assert metrics["questions"] == 3
    assert metrics["who_did_it"]["accuracy"] == 0.5
    assert metrics["what_happens_next"]["accuracy"] == 0
    assert set(metrics) == {
        "accuracy", "low", "high", "chance", "questions", "who_did_it", "what_happens_next"
    }  # fmt: skip
    assert list(accuracy_by_distance(answers).curve()) == [(3.0, 1.0, 1), (5.5, 0.0, 2)]
    assert list(accuracy_by_distance([]).curve()) == []


def test_an_exam_is_read_as_it_was_written_and_is_a_task_of_the_harness(tmp_path: Path) -> None:
    exam = Exam(1.5, tuple(QUESTIONS))
    exam.save(tmp_path)
    assert Exam.load(tmp_path) == exam
    task = parse_yaml((tmp_path / "tiny_lm_exam.yaml").read_text(), "task")
    assert (tmp_path / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    assert (task["doc_to_text"], task["doc_to_choice"], task["target_delimiter"]) == ("{{context}}", "choices", "")
    (tmp_path / "questions.jsonl").write_text('{"document": 1}\n')
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1: metadata must have exactly the keys .*corpus`"):
        Exam.load(tmp_path)
