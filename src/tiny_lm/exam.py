"""The exam on disk: what is known about validation documents that a generator wrote. Of other texts it has nothing.

- `metadata.json`: the floor, the bits of the choices behind the validation stories, which no model beats on average
- `questions.jsonl`: questions about these stories, one a line
- `tiny_lm_exam.yaml`: the same as a task of lm-evaluation-harness, for other people's models

docs/exam.md explains both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_lm.io.files import read_bytes, read_json, write_json, write_whole
from tiny_lm.io.metadata import build

METADATA, QUESTIONS = "metadata.json", "questions.jsonl"
MAX_METADATA, MAX_QUESTIONS = 1 << 20, 1 << 28  # bytes
REMEDY = "`tiny-lm restore corpus` or `dvc pull` restores it, `dvc repro corpus` rebuilds it"
SKILLS = {
    "has": "who has it",
    "where": "where is it",
    "who": "who did it",
    "kind": "what color or kind",
    "next": "what happens next",
}


# The harness answers with the first of the most probable choices. The right one is last, so a tie is wrong there, too.
HARNESS_TASK = """\
task: tiny_lm_exam
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions.jsonl  # in the folder where lm_eval is started
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: "{{choices|length - 1}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The beginning of a story, and several ways to continue it, of which the last is the story's."""

    document: int  # number of the story in the validation split
    skill: str
    context: str
    choices: tuple[str, ...]
    fact: int  # offset in the context: the end of the last mention of the answer beside what is asked about
    handovers: int  # how often the thing in question was given away

    def __post_init__(self) -> None:
        if self.skill not in SKILLS or not self.context or len(set(self.choices)) < max(2, len(self.choices)):
            raise ValueError("a question needs a skill, a context, and two or more different choices")
        if self.fact > len(self.context) or not all(self.choices):
            raise ValueError("the fact must be in the context, and no choice empty")


@dataclass(frozen=True)
class Exam:
    """`floor_bits` are those of all validation documents together; None if they are unknown."""

    floor_bits: float | None
    questions: Sequence[Question] = ()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / METADATA, {"floor_bits": self.floor_bits})
        lines = "".join(json.dumps(asdict(question)) + "\n" for question in self.questions)
        write_whole(folder / QUESTIONS, lambda file: file.write(lines.encode()))
        if self.questions:
            write_whole(folder / "tiny_lm_exam.yaml", lambda file: file.write(HARNESS_TASK.encode()))

    @classmethod
    def load(cls, folder: Path) -> Exam:
        """ValueError, in one line, if it cannot be right."""
        path = folder / METADATA
        values = read_json(path, MAX_METADATA, REMEDY)
        bits = values.get("floor_bits", "missing")
        if values.keys() != {"floor_bits"} or not (bits is None or (type(bits) is float and 0 <= bits < 1 << 62)):
            raise ValueError(f"{path}: floor_bits = {str(bits)[:80]!r}: must be a number, 0 or more, or null; {REMEDY}")
        path, questions = folder / QUESTIONS, []
        for number, line in enumerate(read_bytes(path, MAX_QUESTIONS, REMEDY).splitlines(), 1):
            try:
                questions.append(build(Question, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}; {REMEDY}") from None
        return cls(bits, tuple(questions))
