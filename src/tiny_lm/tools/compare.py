"""Compare the losses of commits or experiments on the same validation documents, with confidence intervals.

The first REV is the baseline. Runs that differ only in train.seed are one variant. Params and hashes come from the
dvc.lock of each REV, losses from its results/evaluate/documents.tsv. How to read the output: docs/compare.md
"""

from __future__ import annotations

import io
import json
import math

import numpy as np

from tiny_lm.compare.comparison import ANSWERS, CORPUS, LOSSES, Run, compare_runs
from tiny_lm.compare.revisions import Revision
from tiny_lm.compare.table import format_comparison
from tiny_lm.terminal import Parser

COLUMNS = ["document", "targets", "characters", "bytes", "text_nats", "eos_nats"]

STAGES = ("corpus", "tokenizer", "shards", "train", "evaluate")  # that losses depend on


def main(argv: list[str]) -> None:
    parser = Parser(
        "compare",
        __doc__,
        "main workspace\n"
        "several seeds: dvc exp run --queue -S model.n_kv_heads=2,4 -S train.seed=1,2,3\n"
        "               dvc queue start\n"
        "               tiny-lm compare EXP EXP ...   (names: `dvc exp show`)",
    )
    parser.add_argument("revs", nargs="+", metavar="REV", help="a commit, branch, tag, experiment, or `workspace`")
    parser.add_argument("--confidence", type=float, metavar="P", default=0.95, help="of the intervals; default: 0.95")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    revs = list(dict.fromkeys(args.revs))
    if len(revs) < 2:
        raise ValueError(f"{revs[0]}: nothing to compare it with; name two or more revisions, e.g. `workspace`")
    if not 0.5 <= args.confidence < 1:
        raise ValueError(f"--confidence {args.confidence:g}: must be at least 0.5 and below 1")
    runs = [read_run(rev) for rev in revs]
    check_same_documents(runs)
    comparison = compare_runs(runs, args.confidence)
    print(json.dumps(comparison.to_json(), indent=2) if args.json else format_comparison(comparison))


def read_run(rev: str) -> Run:
    """The run at a revision, with its losses. ValueError if they are missing, damaged or those of an earlier model."""
    revision = Revision(rev)
    stages = revision.stages().only(STAGES)
    outs = stages.outs
    if LOSSES not in outs:
        raise ValueError(f"{rev}: {LOSSES} is missing, because evaluate has not run there; run `dvc repro evaluate`")
    for reason in stages.outdated().values():
        raise ValueError(f"{rev}: {reason}; run `dvc repro`")
    remedy = "is not in the cache; get it with `dvc fetch --all-commits` or `dvc exp pull`"
    table = _parse(revision.read_output(LOSSES, outs[LOSSES], remedy))
    if table is None:
        columns = ", ".join(COLUMNS)
        raise ValueError(f"{rev}: {LOSSES} is not a table of losses ({columns}); run `dvc repro evaluate`")
    exam = _exam(revision.read_output(ANSWERS, outs[ANSWERS], remedy), len(table)) if ANSWERS in outs else None
    return Run(rev, stages.params, stages.inputs, outs, table[:, 2:4], table[:, 4] / math.log(2), exam)


def _exam(text: str, documents: int) -> np.ndarray | None:
    """(documents, 2): the questions about each document, and the wrong answers; None if there are no questions."""
    head, *lines = [line.split("\t") for line in text.splitlines()]
    try:
        columns = [head.index(name) for name in ("document", "margin")]
        answers = np.array([[float(line[column]) for column in columns] for line in lines]).reshape(-1, 2)
        asked, wrong = (
            np.bincount(answers[some, 0].astype(int), minlength=documents).astype(float)
            for some in (slice(None), answers[:, 1] <= 0)
        )
        if len(asked) > documents or np.isnan(answers).any():
            raise ValueError("a question about no document")
    except (ValueError, IndexError):
        raise ValueError(f"{ANSWERS} is not a table of answers; run `dvc repro evaluate`") from None
    return np.stack([asked, wrong], axis=1) if asked.sum() else None


def _parse(text: str) -> np.ndarray | None:
    """The table as (documents, columns), or None if the text is not one."""
    head, _, body = text.partition("\n")
    if head.split("\t") != COLUMNS or not body.strip():
        return None
    try:
        table = np.loadtxt(io.StringIO(body), delimiter="\t", ndmin=2)
    except ValueError:
        return None
    ok = table.shape[1] == len(COLUMNS) and np.isfinite(table).all() and table[:, 3].min() >= 0 < table[:, 3].sum()
    return table if ok else None


def check_same_documents(runs: list[Run]) -> None:
    """ValueError unless all runs scored the same texts, by their lengths and, if the corpora differ, their hash."""
    first = runs[0]
    for run in runs[1:]:
        if len(run.lengths) != len(first.lengths):
            reason = f"{len(first.lengths):,} vs. {len(run.lengths):,} of them"
        elif (run.lengths != first.lengths).any():
            reason = f"document {(run.lengths != first.lengths).any(1).argmax()} has another length"
        elif run.outs.get(CORPUS) != first.outs.get(CORPUS) and _val_hash(run.rev) != _val_hash(first.rev):
            reason = "other texts of the same lengths"
        else:
            continue
        raise ValueError(
            f"{first.rev} and {run.rev} were scored on different validation documents ({reason}), so their losses are "
            "not comparable; give both the same `dataset` section and run `dvc repro`"
        )


def _val_hash(rev: str) -> str:
    path = f"{CORPUS}/metadata.json"
    remedy = "is needed to compare the validation texts, but not in the cache; run `dvc fetch --all-commits`"
    try:
        return str(json.loads(Revision(rev).read(path, remedy))["splits"]["val"]["sha256"])
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{rev}: {path} is damaged; run `dvc repro corpus`") from None
