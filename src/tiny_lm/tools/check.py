"""Compare outputs with dvc.lock, reading every file.

DVC identifies a file by its size and time, and trusts what it downloads. `check` computes all checksums, and compares
documents and shards with their metadata as well. A PATH inside an output stands for the whole output. Each stage
compares its inputs with dvc.lock before it starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from tiny_lm.runner.dvc_lock import recorded_outputs
from tiny_lm.runner.inputs import CORPUS, SHARDS, check_paths
from tiny_lm.runner.pipelines import LOCKS
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("check", __doc__, "data/shards models/checkpoint")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="outputs; default: all in dvc.lock")
    args = parser.parse_args(argv)
    outputs = [output for lock in LOCKS for output in recorded_outputs(lock)]
    known = [output.path for output in outputs]
    if not args.paths and not outputs and not SHARDS.exists():
        raise ValueError("dvc.lock is missing, so there is nothing to compare with; run `dvc repro`")
    named = {_output_of(path, known) for path in args.paths} or {*known, str(SHARDS)}
    checked = [path for path in known if path in named]
    check_paths([Path(path) for path in checked], outputs)
    from tiny_lm.runner.verify import verify_corpus, verify_shards, verify_texts

    if str(CORPUS) in named and CORPUS.exists():
        verify_corpus(CORPUS)
        verify_texts(CORPUS)
    if str(SHARDS) in named and SHARDS.exists():
        verify_shards(SHARDS)
    paths = f": {', '.join(checked)}" if args.paths else ""
    print(f"{len(checked)} output{' matches' if len(checked) == 1 else 's match'} dvc.lock{paths}")


def _output_of(path: str, outputs: list[str]) -> str:
    """The output that contains this path, as typed by a user. ValueError if there is none in dvc.lock."""
    typed = Path(os.path.relpath(path or "."))  # not resolved: it may be a link into DVC's cache
    for place in (typed, *typed.parents):
        if place.as_posix() in outputs:
            return place.as_posix()
    choices = f"the outputs are {', '.join(outputs)}" if outputs else "there are none yet; run `dvc repro`"
    raise ValueError(f"{path}: not an output in dvc.lock; {choices}")
