"""`tiny-lm compare`: is the difference real? The losses of commits or experiments on the same validation documents.

The first REV is what the others are compared with; runs that differ in nothing but train.seed are one variant. What
ran comes from each REV's dvc.lock, its losses from results/evaluate/documents.tsv. How to read it: docs/compare.md
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiny_lm.corpus.documents import read_documents
from tiny_lm.evaluation.compare import Array, compare, effective_documents, extremes
from tiny_lm.evaluation.revisions import Revision
from tiny_lm.evaluation.verdict import cut, report
from tiny_lm.terminal import Parser

LOSSES, CORPUS, SEED = "results/evaluate/documents.tsv", "data/corpus", "train.seed"
COLUMNS = ["document", "targets", "characters", "bytes", "text_nats", "eos_nats"]
SHOWN = 3  # documents that gained most, and that lost most; params in the name of a variant


@dataclass(frozen=True)
class Run:
    rev: str
    params: dict[str, Any]  # of all stages up to evaluate: "train.seed": 1
    files: dict[str, str]  # hashes of code, and of data that no stage made
    outs: dict[str, str]  # hashes of what the stages made
    lengths: Array  # (documents, 2): characters, bytes
    bits: Array  # (documents,) of text


def main(argv: list[str]) -> None:
    parser = Parser(
        "compare",
        __doc__,
        "main workspace\n"
        "seeds:   dvc exp run --queue -S model.n_kv_heads=2,4 -S train.seed=1,2,3; dvc queue start;\n"
        "         tiny-lm compare EXP EXP …, with the names from `dvc exp show`",
    )
    parser.add_argument("revs", nargs="+", metavar="REV", help="a commit, branch, tag, experiment, or `workspace`")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals; default: 0.95")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if len(args.revs) < 2:
        raise ValueError(f"{args.revs[0]}: with what? Name two or more commits or experiments, or `workspace`")
    if not 0.5 <= args.confidence < 1:
        raise ValueError(f"--confidence {args.confidence:g}: must be at least 0.5 and below 1")
    runs = [read_run(rev) for rev in args.revs]
    check_same_documents(runs)
    result = compare_runs(runs, args.confidence)
    print(json.dumps(result, indent=2) if args.json else report(result))


def read_run(rev: str) -> Run:
    """What ran at a revision, and its losses. ValueError, in one line, where they are not there or cannot be right."""
    revision = Revision(rev)
    stages = [stage for name, stage in revision.stages().items() if name != "export"]
    outs = {path: md5 for stage in stages for path, md5 in stage.outs.items()}
    files = {path: md5 for stage in stages for path, md5 in stage.deps.items() if path not in outs}
    params = {key: value for stage in stages for key, value in stage.params.items()}
    if LOSSES not in outs:
        raise ValueError(f"{rev}: {LOSSES} was not made there; `dvc repro evaluate` makes it")
    text = revision.read(LOSSES, "not in the cache; `dvc fetch --all-commits` or `dvc exp pull` gets it")
    if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != outs[LOSSES]:
        raise ValueError(f"{rev}: {LOSSES} is not the file that dvc.lock records; `dvc repro evaluate` makes it again")
    head, _, body = text.partition("\n")
    try:
        if head.split("\t") != COLUMNS or not body.strip():
            raise ValueError
        table = np.loadtxt(io.StringIO(body), delimiter="\t", ndmin=2)  # (documents, columns)
        if (
            table.shape[1] != len(COLUMNS)
            or not np.isfinite(table).all()
            or table[:, 3].min() < 0
            or table[:, 3].sum() == 0
        ):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{rev}: {LOSSES}: not a table of losses ({', '.join(COLUMNS)}); `dvc repro evaluate` makes it"
        ) from None
    return Run(rev, params, files, outs, table[:, 2:4], table[:, 4] / math.log(2))


def check_same_documents(runs: list[Run]) -> None:
    """ValueError unless all runs were scored on the same texts: by length, and by hash where the corpora differ."""
    first = runs[0]
    for run in runs[1:]:
        if len(run.lengths) != len(first.lengths):
            what = f"{len(first.lengths):,} and {len(run.lengths):,} of them"
        elif (run.lengths != first.lengths).any():
            what = f"number {(run.lengths != first.lengths).any(1).argmax()} has another length"
        elif run.outs.get(CORPUS) != first.outs.get(CORPUS) and _val_hash(run.rev) != _val_hash(first.rev):
            what = "other texts of the same lengths"
        else:
            continue
        raise ValueError(
            f"{first.rev} and {run.rev} were scored on different validation documents ({what}), so their losses do "
            "not compare; give both the same `dataset` section and `dvc repro`"
        )


def compare_runs(runs: list[Run], confidence: float) -> dict[str, Any]:
    """What `--json` prints: each variant beside the first, with intervals that all hold together with `confidence`."""
    repeats = _repeats(runs)
    if len(runs) - len(repeats) > 1:  # else to see that they are the same is the answer
        runs = [run for run in runs if run.rev not in repeats]
    variants: list[list[Run]] = []
    for run in runs:
        # a seed that a variant has is no new sample of it, but another machine's run
        homes = [v for v in variants if not any(_changes(v[0], run)) and run.params.get(SEED) not in _seeds(v)]
        homes[0].append(run) if homes else variants.append([run])
    if len(variants) == 1:  # nothing but seeds to compare
        variants = [[run] for run in runs]
    sizes = runs[0].lengths[:, 1]
    baseline = np.stack([run.bits for run in variants[0]])  # (seeds, documents)
    entries: list[dict[str, Any]] = []
    for variant in variants:
        bits = np.stack([run.bits for run in variant])  # (seeds, documents)
        params, files = _changes(variants[0][0], variant[0])
        entry = {
            "name": _name(variant, params, files, variants[0]) if entries else variant[0].rev,
            "revs": [run.rev for run in variant],
            "seeds": _seeds(variant),
            "params": params,
            "files": files,
            "bits_per_byte": float(bits.mean(0).sum() / sizes.sum()),
        }
        if entries:
            difference = compare(baseline, bits, sizes, 1 - (1 - confidence) / (len(variants) - 1))  # Bonferroni
            entry |= {
                "difference": difference.value,
                "interval": difference.interval,
                "covers": difference.covers,
                "verdict": difference.verdict,
                "identical": bool((bits.mean(0) == baseline.mean(0)).all()),
            }
            for key, numbers in zip(("gained", "lost"), extremes(baseline, bits, sizes, SHOWN), strict=True):
                before, after = baseline.mean(0) / np.maximum(sizes, 1), bits.mean(0) / np.maximum(sizes, 1)
                entry[key] = [
                    {"document": i, "bytes": int(sizes[i]), "before": float(before[i]), "after": float(after[i])}
                    for i in numbers
                ]
        entries.append(entry)
    moved = [document for entry in entries[1:] for document in entry["gained"] + entry["lost"]]
    texts = _texts(runs[0].lengths, {document["document"] for document in moved})
    for document in moved:
        document["text"] = texts.get(document["document"])
    return {
        "confidence": confidence,
        "documents": len(sizes),
        "effective_documents": effective_documents(sizes),
        "bytes": int(sizes.sum()),
        "repeats": repeats,
        "tokenizers_differ": len({run.outs.get("models/tokenizer") for run in runs}) > 1,
        "baseline": entries[0],
        "variants": entries[1:],
    }


def _repeats(runs: list[Run]) -> dict[str, str]:
    """Revisions with the settings and the losses of one before them, and that one: a sweep names some runs again."""
    first: dict[str, str] = {}
    repeats = {}
    for run in runs:
        key = json.dumps([run.params, run.files, run.outs[LOSSES]], sort_keys=True)
        if first.setdefault(key, run.rev) != run.rev:
            repeats[run.rev] = first[key]
    return repeats


def _seeds(variant: list[Run]) -> list[Any]:
    return [run.params.get(SEED) for run in variant]


def _changes(old: Run, new: Run) -> tuple[dict[str, list[Any]], list[str]]:
    """Params with both values, and files, that differ between two runs; the seed aside."""
    keys = [key for key in {**old.params, **new.params} if key != SEED and old.params.get(key) != new.params.get(key)]
    files = [path for path in {**old.files, **new.files} if old.files.get(path) != new.files.get(path)]
    return {key: [old.params.get(key), new.params.get(key)] for key in keys}, files


def _name(variant: list[Run], params: dict[str, list[Any]], files: list[str], baseline: list[Run]) -> str:
    """What is other than in the baseline: `model.n_kv_heads=2`; the revision where dvc.lock shows no difference."""
    parts = [f"{key}={cut(str(new), 20)}" for key, (_, new) in list(params.items())[:SHOWN]]
    parts += [f"{len(params) - SHOWN} more params"] if len(params) > SHOWN else []
    parts += [f"other {files[0]}" if len(files) == 1 else f"{len(files)} other files"] if files else []
    seed = variant[0].params.get(SEED)
    return ", ".join(parts) or (f"{SEED}={seed}" if seed not in _seeds(baseline) else variant[0].rev)


def _texts(lengths: Array, wanted: set[int]) -> dict[int, str]:
    """How the wanted documents begin, where the corpus in this workspace is the one that the runs were scored on."""
    beginnings, number = {}, -1
    try:
        for number, text in enumerate(read_documents(Path(CORPUS) / "val.parquet")):
            if number == len(lengths) or tuple(lengths[number]) != (len(text), len(text.encode())):
                return {}
            if number in wanted:
                beginnings[number] = cut(text, 60)
    except (OSError, ValueError):
        return {}
    return beginnings if number + 1 == len(lengths) else {}


def _val_hash(rev: str) -> Any:
    otherwise = "which tells whether the validation texts are the same; `dvc fetch --all-commits` gets it"
    try:
        return json.loads(Revision(rev).read(f"{CORPUS}/metadata.json", otherwise))["splits"]["val"]["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{rev}: {CORPUS}/metadata.json is not one of ours; `dvc repro corpus` makes it") from None
