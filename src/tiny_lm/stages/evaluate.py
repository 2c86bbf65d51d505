"""Evaluate: what the trained model knows of the validation split (docs/exam.md), and samples of its text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny_lm.device import keep_memory, set_arithmetic, uses_cuda
from tiny_lm.documents import validation_sources
from tiny_lm.evaluation.calibration import Calibration
from tiny_lm.evaluation.copying import Copying
from tiny_lm.evaluation.exam import Answer, accuracy_by_distance, check_context, exam_metrics, take_exam
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.params import EvaluateParams
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.evaluation.token_frequency import LossByFrequency
from tiny_lm.evaluation.training_counts import TrainingCounts
from tiny_lm.evaluation.words import Words
from tiny_lm.exam import Exam
from tiny_lm.generation.generate import generate
from tiny_lm.io.files import write_json, write_whole
from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.model.transformer import Transformer
from tiny_lm.runner.stage import Stage
from tiny_lm.shards.format import REMEDY, read_metadata
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows
from tiny_lm.tokenizer.encode import Tokenizer

FOLDER = Path("results/evaluate")
LUCK = 10  # bits; a model that has not seen the text is this far below the floor with a probability of 2**-10
CORPUS = Path("data/corpus/metadata.json")


def main(stage: Stage) -> None:
    params = stage.section("evaluate", EvaluateParams)
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    metadata = read_metadata(Path("data/shards"))
    if metadata.tokenizer != tokenizer.digest:
        raise ValueError("data/shards: made with another tokenizer than models/tokenizer; `dvc repro` rebuilds both")
    ids = (metadata.vocab_size, metadata.pad_id, metadata.eos_id, metadata.bos_id, metadata.unk_id)
    expected = (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id)
    if ids != expected:
        raise ValueError(f"data/shards: vocabulary and special ids {ids}, but the tokenizer has {expected}; {REMEDY}")
    exam = Exam.load(Path("data/exam"))
    sources = validation_sources(CORPUS, metadata.val.documents)
    keep_memory()
    cuda = uses_cuda("evaluate", params.accelerator, params.precision)
    set_arithmetic(params.threads, params.portable, cuda=cuda)
    model, _ = load_checkpoint(Path("models/checkpoint"), tokenizer.digest, tokenizer.vocab_size)
    model = model.to("cuda" if cuda else "cpu")
    check_context(model.params.context_length, tokenizer, exam.questions)
    windows = DocumentWindows(
        TokenStream(Path("data/shards"), "val"), model.params.context_length, params.batch_size, None
    )
    words = Words(tokenizer)
    counts = TrainingCounts(TokenStream(Path("data/shards"), "train"), words)
    losses = DocumentLosses(
        documents=len(windows.lengths), context_length=model.params.context_length, eos_id=metadata.eos_id
    )
    calibration, copying = Calibration(), Copying(words, counts, metadata.pad_id)
    by_frequency = LossByFrequency(counts.tokens)
    batches = (windows[i] for i in range(len(windows)))
    for batch in predictions(model, batches, precision=params.precision, progress=stage.runtime.progress):
        for statistic in (losses, calibration, copying, by_frequency):
            statistic.add(batch)
    answers = take_exam(model, tokenizer, exam.questions, params.batch_size)
    metrics: dict[str, Any] = losses.metrics(text_bytes=metadata.val.bytes, characters=metadata.val.characters)
    if exam.floor_bits is not None:
        metrics |= losses.above_floor(exam.floor_bits, metadata.val.bytes)
        if metrics["bits_above_floor"] * metadata.val.bytes < -LUCK:
            stage.say("the loss is below the floor: the model has seen what it is validated on (docs/exam.md)")
    metrics["calibration"] = calibration.metrics()
    if (copied := copying.metrics()) is not None:
        metrics["copying"] = copied
    if answers:
        metrics["exam"] = exam_metrics(answers)
    if sources is not None:
        metrics["sources"] = _by_source(losses, windows, sources)
    (FOLDER / "plots").mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / "metrics.json", metrics)
    _write_table(FOLDER / "plots" / "loss_by_position.tsv", _loss_by_position(losses))
    _write_table(FOLDER / "documents.tsv", _documents(losses, windows))
    _write_table(FOLDER / "exam.tsv", _answers(answers))
    for name, columns, curve in (
        ("exam_by_distance", ("distance", "accuracy", "questions"), accuracy_by_distance(answers).curve()),
        ("copying_by_distance", ("distance", "accuracy", "words"), copying.repeated.curve()),
        ("calibration", ("confidence", "accuracy", "targets"), calibration.curve()),
        ("loss_by_frequency", ("per_million", "loss", "targets"), by_frequency.curve()),
    ):
        _write_table(FOLDER / f"{name}.tsv", iter([columns, *curve]))
    samples = _samples(model, tokenizer, params).encode()
    write_whole(FOLDER / "samples.txt", lambda file: file.write(samples))
    stage.say(
        f"loss {metrics['loss']:.4f} (perplexity {metrics['perplexity']:.2f}), "
        f"{metrics['bits_per_byte']:.4f} bits per byte over {metadata.val.documents:,} documents"
    )
    if answers:
        result = metrics["exam"]
        stage.say(
            f"{result['accuracy']:.1%} of {result['questions']:,} exam questions, {result['chance']:.1%} by chance"
        )


def _by_source(
    losses: DocumentLosses, windows: DocumentWindows, sources: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """The losses on the validation documents of each source of a mixture, by its number in `dataset.sources`."""
    metrics = {}
    for source in np.unique(sources).tolist():
        documents = np.flatnonzero(sources == source)
        _, characters, size = windows.lengths[documents].sum(axis=0).tolist()
        metrics[str(source)] = losses.metrics(text_bytes=size, characters=characters, documents=documents)
    return metrics


def _loss_by_position(losses: DocumentLosses) -> Iterator[Sequence[object]]:
    """The loss as a function of context: nats per target at each position that any document reaches."""
    yield "position", "loss"
    for position, count in enumerate(losses.position_targets.tolist()):
        if count:
            yield position, losses.position_nats[position] / count


def _documents(losses: DocumentLosses, windows: DocumentWindows) -> Iterator[Sequence[object]]:
    """The sums of every validation document, for paired comparisons of two models."""
    yield "document", "targets", "characters", "bytes", "text_nats", "eos_nats"
    for i, (_, characters, size) in enumerate(windows.lengths.tolist()):
        yield i, losses.targets[i], characters, size, losses.text_nats[i], losses.eos_nats[i]


def _answers(answers: Sequence[Answer]) -> Iterator[Sequence[object]]:
    """Every question of the exam; `margin` is above zero if the answer is right."""
    yield "question", "document", "skill", "choices", "distance", "handovers", "margin"
    for i, answer in enumerate(answers):
        asked = answer.question
        yield i, asked.document, asked.skill, len(asked.choices), answer.distance, asked.handovers, answer.margin


def _write_table(path: Path, rows: Iterator[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def _samples(model: Transformer, tokenizer: Tokenizer, params: EvaluateParams) -> str:
    """One continuation of each prompt. The same params and weights always give the same text."""
    parts = []
    for number, prompt in enumerate(params.prompts):
        ids = generate(
            model,
            [tokenizer.bos_id, *tokenizer.encode(prompt).tolist()],
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=params.seed + number,
            eos_id=tokenizer.eos_id,
        )
        parts.append(f"=== prompt: {prompt!r}\n{prompt}{tokenizer.decode(list(ids))}\n")
    return "\n".join(parts)
