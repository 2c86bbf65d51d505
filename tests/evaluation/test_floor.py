"""The floor: bits of the choices behind the validation stories, and what a loss below it means."""

import json
import math
from pathlib import Path

import pytest
import torch

from tiny_lm.corpus.exam import make_exam
from tiny_lm.corpus.filters import Filters
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.exam import Exam
from tiny_lm.executor import InProcess
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer
from tiny_lm.stories.generator import story

METRICS = Path(__file__).parents[2] / "results/evaluate/metrics.json"
BOS, EOS = 256, 257


def floor(numbers: list[int], kept: float = 1.0) -> float:
    bits = make_exam(InProcess(), 1, numbers, kept).floor_bits
    assert bits is not None
    return bits


def test_the_floor_is_the_sum_over_stories_and_filters_lower_it() -> None:
    stories = [story(1, number) for number in range(400)]
    assert floor(list(range(400))) == pytest.approx(sum(text.nats for text in stories) / math.log(2))
    filters = Filters(min_chars=600, max_chars=None)
    long = [number for number in range(400) if not filters.reason(stories[number])]
    assert 0 < len(long) < 200
    bits = sum(stories[number].nats for number in long) / math.log(2)
    assert floor(long, len(long) / 400) == pytest.approx(bits - len(long) * math.log2(400 / len(long)))


def test_an_exam_without_a_floor_is_saved_and_loaded(tmp_path: Path) -> None:
    Exam(None).save(tmp_path)
    assert Exam.load(tmp_path).floor_bits is None


def losses_of(model: Transformer, texts: list[str]) -> DocumentLosses:
    """Of bytes, each text in a context of its own."""
    batches = []
    for number, text in enumerate(texts):
        ids = torch.tensor([[BOS, *text.encode(), EOS]])
        batches.append((ids[:, :-1], ids[:, 1:], torch.tensor([number])))
    losses = DocumentLosses(documents=len(texts), context_length=model.params.context_length, eos_id=EOS)
    for batch in predictions(model, batches, precision="32", progress=False):
        losses.add(batch)
    return losses


def test_a_model_that_has_seen_the_validation_stories_falls_below_the_floor() -> None:
    seen = sorted((story(2, index) for index in range(50)), key=len)[:2]
    torch.manual_seed(0)
    params = Llama3Params(
        architecture="llama3", context_length=512, d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=128,
        rope_theta=1000.0, norm_eps=1e-6,
    )  # fmt: skip
    model = build_model(params, 258)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(70):
        for text in seen:
            ids = torch.tensor([[BOS, *text.encode(), EOS]])
            optimizer.zero_grad()
            (model.summed_loss(ids[:, :-1], ids[:, 1:]) / ids.shape[1]).backward()
            optimizer.step()
    model.eval()
    unseen = [story(3, index) for index in range(2)]
    for texts, leaks in ((seen, True), (unseen, False)):
        bits = sum(text.nats for text in texts) / math.log(2)
        size = sum(map(len, texts))
        metrics = losses_of(model, list(texts)).above_floor(bits, size)
        assert metrics["floor_bits_per_byte"] == pytest.approx(bits / size)
        assert (metrics["bits_above_floor"] < 0) == leaks, metrics


def test_the_model_of_the_default_run_is_not_below_the_floor() -> None:
    assert json.loads(METRICS.read_text())["bits_above_floor"] >= 0


@pytest.mark.parametrize("text", ["{}", "[]", '{"floor_bits": "1"}', '{"floor_bits": -1.0}', '{"floor_bits": NaN}', ""])
def test_a_damaged_floor_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(text)
    (tmp_path / "questions.jsonl").touch()
    with pytest.raises(ValueError, match=r"metadata\.json: .*`dvc repro corpus` rebuilds it$"):
        Exam.load(tmp_path)
