"""Cost of verifying the inputs of each stage, as a percentage of the time that the stages take.

    PYTHONPATH=src python benchmarks/checksums.py --seconds 480                    # the artifacts here
    PYTHONPATH=src python benchmarks/checksums.py --seconds 480 --root FOLDER      # of another repository, read-only

Measures the two checks that stages make: all inputs against `dvc.lock`, in a separate process before the stage; and a
tokenizer or checkpoint against its own metadata, when it is opened. `--seconds` is how long `dvc repro`
took to build them all.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tiny_lm.export.card import read_metrics
from tiny_lm.io.params import read_yaml
from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.tokenizer.encode import Tokenizer

TOKENIZER, CHECKPOINT = (
    lambda: Tokenizer.load(Path("models/tokenizer")),
    lambda: load_checkpoint(Path("models/checkpoint")),
)
OPENED: dict[str, list[Callable[[], object]]] = {
    "tokenizer": [],
    "shards": [TOKENIZER],
    "train": [],
    "evaluate": [TOKENIZER, CHECKPOINT],
    "export": [TOKENIZER, CHECKPOINT, lambda: read_metrics(Path("results/evaluate/metrics.json"))],
}


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(), help="a repository in which everything is built")
    parser.add_argument("--seconds", type=float, required=True, help="that `dvc repro` took")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    code = str(Path("src").resolve())
    os.chdir(args.root)
    plan = read_yaml(Path("dvc.yaml"))["stages"]
    against_lock, opened = dict.fromkeys(OPENED, 0.0), dict.fromkeys(OPENED, 0.0)
    for stage, readers in OPENED.items():
        data = [dep for dep in plan[stage]["deps"] if not dep.startswith("src/")]
        command = [sys.executable, "-m", "tiny_lm.runner.inputs", *data]
        environment = os.environ | {"PYTHONPATH": code}
        check = lambda c=command, e=environment: subprocess.run(c, env=e, check=True)  # noqa: E731
        against_lock[stage] = statistics.median(seconds(check) for _ in range(args.rounds))
        opened[stage] = statistics.median(sum(map(seconds, readers)) for _ in range(args.rounds))
    size = sum(f.stat().st_size for d in ("data", "models") for f in Path(d).rglob("*") if f.is_file())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; artifacts of {size / 1e6:.1f} MB")
    print(f"{'stage':<10}  {'dvc.lock':>8}  {'opening':>8}   seconds, median of {args.rounds}")
    for stage in OPENED:
        print(f"{stage:<10}  {against_lock[stage]:>8.3f}  {opened[stage]:>8.3f}")
    total = sum(against_lock.values()) + sum(opened.values())
    print(f"total {total:.2f} s, {100 * total / args.seconds:.2f} % of the {args.seconds:g} s that the stages take")


if __name__ == "__main__":
    main()
