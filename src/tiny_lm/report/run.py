"""The stages and files of a revision that a report shows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiny_lm.compare.revisions import Stages

TRAIN, EVALUATE = "results/train/metrics.json", "results/evaluate/metrics.json"
HARDWARE, SAMPLES = "results/train/hardware/metrics.json", "results/evaluate/samples.txt"
TOKENIZER, SHARDS = "models/tokenizer/metadata.json", "data/shards/metadata.json"
COMPRESSION = "results/tokenizer/metrics.json"
CURVES = "results/train/plots/metrics/{}.tsv"
ANSWERS, QUESTIONS = "results/evaluate/exam.tsv", "data/exam/questions.jsonl"
DISTANCES = "results/evaluate/exam_by_distance.tsv"
COPYING = "results/evaluate/copying_by_distance.tsv"
CALIBRATION, FREQUENCY = "results/evaluate/calibration.tsv", "results/evaluate/loss_by_frequency.tsv"
POSITIONS = "results/evaluate/plots/loss_by_position.tsv"
NEEDED = (TRAIN, *(CURVES.format(name) for name in ("train_loss", "val_loss", "lr", "gradient_norm")))
SHOWN = (
    EVALUATE,
    POSITIONS,
    DISTANCES,
    COPYING,
    CALIBRATION,
    FREQUENCY,
    ANSWERS,
    QUESTIONS,
    SAMPLES,
    HARDWARE,
    COMPRESSION,
    TOKENIZER,
    SHARDS,
)  # if they exist
AFTER_TRAINING = ("evaluate", "export")
STAGES = ("corpus", "tokenizer", "shards", "train", *AFTER_TRAINING)


@dataclass(frozen=True)
class Run:
    """A revision. The text of a missing file is None."""

    name: str
    stages: Stages
    texts: dict[str, str | None]  # by path

    def json(self, path: str) -> dict[str, Any]:
        values = json.loads(self.texts[path] or "{}")
        return values if isinstance(values, dict) else {}

    def curve(self, path: str, fewest: int = 0) -> list[tuple[float, float]]:
        """The first two columns of a table, of those rows whose third, a number of cases, is at least `fewest`."""
        rows = [line.split("\t") for line in (self.texts[path] or "").splitlines()[1:]]
        points = [(float(x), float(y)) for x, y, *cases in rows if all(int(n) >= fewest for n in cases)]
        return [point for point in points if all(map(math.isfinite, point))]

    def worst_answers(self, count: int) -> list[tuple[dict[str, Any], float]]:
        """(question, margin) of those that the model got most confidently wrong."""
        questions = (self.texts[QUESTIONS] or "").splitlines()
        head, *rows = [line.split("\t") for line in (self.texts[ANSWERS] or "margin").splitlines()]
        if len(rows) != len(questions):
            return []  # one of the files is missing
        margins = [float(row[head.index("margin")]) for row in rows]
        worst = sorted(range(len(rows)), key=margins.__getitem__)[:count]
        return [(json.loads(questions[i]), margins[i]) for i in worst if margins[i] <= 0]

    def samples(self) -> list[tuple[str, str]]:
        """(prompt, continuation) of each sample in samples.txt, where a line with the prompt precedes each."""
        whole = rest = self.texts[SAMPLES] or ""
        prompts, samples = self.stages.params.get("evaluate.prompts") or [], []
        heads = [f"=== prompt: {prompt!r}\n{prompt}" for prompt in prompts]
        for prompt, (head, following) in zip(prompts, pairwise([*heads, ""]), strict=True):
            body = rest.removeprefix(head)
            end = body.find(f"\n{following}") if following else len(body)
            if body == rest or end < 0:
                return [("", whole)] if whole else []  # in another format, or missing
            samples.append((prompt, body[:end].rstrip("\n")))
            rest = body[end + 1 :]
        return samples
