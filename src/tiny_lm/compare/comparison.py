"""Groups runs into variants, and compares each variant with the first, the baseline."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tiny_lm.compare.statistics import Array, Difference, compare, effective_documents, extremes
from tiny_lm.documents import read_split

LOSSES, ANSWERS = "results/evaluate/documents.tsv", "results/evaluate/exam.tsv"
CORPUS, EXAM, SEED = "data/corpus", "data/exam", "train.seed"
EXTREMES = 3  # documents shown that gained most, and that lost most
NAMED_PARAMS = 3  # in the name of a variant


@dataclass(frozen=True)
class Run:
    """The params, code and data of a revision, and its losses."""

    rev: str
    params: dict[str, Any]  # of all stages up to evaluate: "train.seed": 1
    files: dict[str, str]  # path: MD5 of code, and of data that no stage writes
    outs: dict[str, str]  # path: MD5 of the stages' outputs
    lengths: Array  # (documents, 2): characters, bytes
    bits: Array  # (documents,) of text
    exam: Array | None = None  # (documents, 2): questions, wrong answers; None if there are no questions


@dataclass(frozen=True)
class Document:
    """A document whose loss changed a lot; losses are in bits per byte."""

    document: int
    bytes: int
    before: float
    after: float
    text: str | None = None  # its beginning, if it is known


@dataclass(frozen=True)
class ExamDifference:
    """Of the fraction of wrong answers, to the same questions: below zero, the variant is better."""

    before: float  # accuracy
    after: float
    questions: int
    errors: Difference

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"errors": self.errors.to_json()}


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but the seed, and how they compare with the baseline."""

    name: str
    revs: list[str]
    seeds: list[Any]
    params: dict[str, list[Any]]  # those that differ from the baseline: [its value, the variant's]
    files: list[str]  # that differ from the baseline
    bits_per_byte: float
    difference: Difference | None = None  # of the baseline: None
    identical: bool = False
    gained: list[Document] = field(default_factory=list)
    lost: list[Document] = field(default_factory=list)
    exam: ExamDifference | None = None  # None if the runs did not answer the same questions

    def to_json(self) -> dict[str, Any]:
        difference = self.difference.to_json() if self.difference else {}
        return asdict(self) | difference | {"exam": self.exam and self.exam.to_json()}


@dataclass(frozen=True)
class Comparison:
    confidence: float
    documents: int
    effective_documents: float
    bytes: int
    repeats: dict[str, str]  # a revision that is left out: the earlier one that is the same run
    tokenizers_differ: bool
    baseline: Variant
    variants: list[Variant]

    def to_json(self) -> dict[str, Any]:
        """The values that `--json` prints."""
        variants = [variant.to_json() for variant in self.variants]
        return vars(self) | {"baseline": self.baseline.to_json(), "variants": variants}


def compare_runs(runs: list[Run], confidence: float) -> Comparison:
    """Compares each variant with the first, with joint confidence `confidence` (Bonferroni): that of all differences in
    losses, and separately that of all differences in the exam.
    """
    repeats = _repeats(runs)
    if len(runs) - len(repeats) > 1:  # otherwise the answer is that they are the same
        runs = [run for run in runs if run.rev not in repeats]
    groups = _group(runs)
    sizes = runs[0].lengths[:, 1]
    texts = _beginnings(runs[0].lengths)
    baseline = np.stack([run.bits for run in groups[0]])  # (seeds, documents)
    alone = 1 - (1 - confidence) / max(1, len(groups) - 1)  # of one interval, so that all hold together (Bonferroni)
    variants = list[Variant]()
    for group in groups:
        bits = np.stack([run.bits for run in group])  # (seeds, documents)
        params, files = _changes(groups[0][0], group[0])
        name = _name(group, params, files, groups[0]) if variants else group[0].rev
        bits_per_byte = float(bits.mean(0).sum() / sizes.sum())
        variant = Variant(name, [run.rev for run in group], _seeds(group), params, files, bits_per_byte)
        if variants:
            before, after = baseline.mean(0) / np.maximum(sizes, 1), bits.mean(0) / np.maximum(sizes, 1)
            gained, lost = (
                [Document(i, int(sizes[i]), float(before[i]), float(after[i]), texts.get(i)) for i in documents]
                for documents in extremes(baseline, bits, sizes, EXTREMES)
            )
            variant = replace(
                variant,
                difference=compare(baseline, bits, sizes, alone),
                identical=bool((bits.mean(0) == baseline.mean(0)).all()),
                gained=gained,
                lost=lost,
                exam=_compare_exams(groups[0], group, alone),
            )
        variants.append(variant)
    return Comparison(
        confidence=confidence,
        documents=len(sizes),
        effective_documents=effective_documents(sizes),
        bytes=int(sizes.sum()),
        repeats=repeats,
        tokenizers_differ=len({run.outs.get("models/tokenizer") for run in runs}) > 1,
        baseline=variants[0],
        variants=variants[1:],
    )


def _compare_exams(baseline: list[Run], variant: list[Run], confidence: float) -> ExamDifference | None:
    """The questions about a document belong together, so documents are what an interval is about, as for losses."""
    runs = [*baseline, *variant]
    exams = [run.exam for run in runs if run.exam is not None]
    if len(exams) < len(runs) or len({run.outs.get(EXAM) for run in runs}) > 1:
        return None
    asked = exams[0][:, 0]
    before, after = np.stack(exams[: len(baseline)])[..., 1], np.stack(exams[len(baseline) :])[..., 1]
    right = [1 - float(wrong.mean(0).sum() / asked.sum()) for wrong in (before, after)]
    return ExamDifference(right[0], right[1], int(asked.sum()), compare(before, after, asked, confidence))


def _repeats(runs: list[Run]) -> dict[str, str]:
    """Revisions that are the same run as an earlier one, and that one: in a sweep, some runs have two names."""
    first: dict[str, str] = {}
    repeats = {}
    for run in runs:
        key = json.dumps([run.params, run.files, run.outs[LOSSES]], sort_keys=True)
        if first.setdefault(key, run.rev) != run.rev:
            repeats[run.rev] = first[key]
    return repeats


def _group(runs: list[Run]) -> list[list[Run]]:
    """Groups of runs that differ only in the seed; if that is all of them, each run is a group.

    A run whose seed is already in the group is not a new sample: it ran on another machine, so it gets its own group.
    """
    groups: list[list[Run]] = []
    for run in runs:
        matches = [g for g in groups if not any(_changes(g[0], run)) and run.params.get(SEED) not in _seeds(g)]
        matches[0].append(run) if matches else groups.append([run])
    return groups if len(groups) > 1 else [[run] for run in runs]


def _seeds(group: list[Run]) -> list[Any]:
    return [run.params.get(SEED) for run in group]


def _changes(old: Run, new: Run) -> tuple[dict[str, list[Any]], list[str]]:
    """The params (with both values) and files that differ between two runs, except for the seed."""
    keys = [key for key in {**old.params, **new.params} if key != SEED and old.params.get(key) != new.params.get(key)]
    files = [path for path in {**old.files, **new.files} if old.files.get(path) != new.files.get(path)]
    if (
        old.outs.get(CORPUS) != new.outs.get(CORPUS)
        and not files
        and not any(key.startswith("dataset.") for key in keys)
    ):
        files = [CORPUS]  # read again from the Hub or a URL, where it has changed
    return {key: [old.params.get(key), new.params.get(key)] for key in keys}, files


def _name(group: list[Run], params: dict[str, list[Any]], files: list[str], baseline: list[Run]) -> str:
    """The differences from the baseline, as in `model.n_kv_heads=2`; the revision if there are none."""
    parts = [f"{key}={one_line(_as_typed(new), 20)}" for key, (_, new) in list(params.items())[:NAMED_PARAMS]]
    parts += [f"{len(params) - NAMED_PARAMS} more params"] if len(params) > NAMED_PARAMS else []
    parts += [f"other {files[0]}" if len(files) == 1 else f"{len(files)} other files"] if files else []
    seed = group[0].params.get(SEED)
    return ", ".join(parts) or (f"{SEED}={seed}" if seed not in _seeds(baseline) else group[0].rev)


def _as_typed(value: Any) -> str:
    """A value as one types it in params.yaml or behind `-S`: null, not None."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _beginnings(lengths: Array) -> dict[int, str]:
    """The beginning of each document; none if the corpus in the workspace is not the one that was evaluated."""
    texts = dict[int, str]()
    try:
        for number, text in enumerate(read_split(Path(CORPUS) / "val")):
            if number == len(lengths) or tuple(lengths[number]) != (len(text), len(text.encode())):
                return {}
            texts[number] = one_line(text, 60)
    except (OSError, ValueError):  # nobody needs the texts, so they are no reason to fail
        return {}
    return texts if len(texts) == len(lengths) else {}


def one_line(text: str, width: int) -> str:
    """The text in at most `width` characters; control characters, which could move the cursor, become spaces."""
    text = "".join(c if c.isprintable() else " " for c in text[: 2 * width])
    return text if len(text) <= width else text[: width - 1] + "…"
