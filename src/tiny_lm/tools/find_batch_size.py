"""Find the fastest micro-batch size, and the largest that fits in memory, by running training steps.

A step is forward, backward and optimizer, on random tokens. Each size runs in a separate process, which may run out of
memory without harm. It tries every size that divides train.batch_size evenly among runtime.devices, smallest first. The
model is the one in params.yaml, changed by the settings; only --write changes params.yaml itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tiny_lm.presets import edit_params, params_with, vocabulary, write_params
from tiny_lm.step_speed import CODE, measure, run
from tiny_lm.terminal import Parser, amount, size
from tiny_lm.training.params import divides_into_subtrees

KEY = "train.micro_batch_size"


def main(argv: list[str]) -> None:
    parser = Parser("find-batch-size", __doc__, "model=gpt2-2l --memory 8GB")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--memory", type=amount, help="limit, e.g. 8GB; default: available memory, on CUDA all")
    parser.add_argument("--seconds", type=float, default=3.0, help="minimum time per size; default: 3")
    parser.add_argument("--write", action="store_true", help="write settings and the fastest size to params.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # a size: measure it in this process,
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # which was started by that one
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 3600:
        raise ValueError(f"--seconds {args.seconds:g}: must be above 0 and at most 3600")
    if args.measure:
        settings = [*args.settings, f"{KEY}={args.measure}"]
        params, train, runtime = params_with(settings, "model", "train", "runtime")
        vocab_size, _ = vocabulary(settings)
        measured = measure(params, train, runtime.devices, vocab_size, args.memory, args.seconds, args.parent)
        print(json.dumps(measured))
        return
    say = (lambda _: None) if args.json else partial(print, flush=True)
    result = find(args.settings, args.memory, args.seconds, say)
    if args.write:
        write_params(edit_params([*args.settings, f"{KEY}={result['fastest']}"]))
    print(json.dumps(result, indent=2) if args.json else advice(args.settings, result, args.write))


def find(settings: list[str], memory: int | None, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The output of `--json`. ValueError if not even one sequence fits."""
    train, runtime = params_with([*settings, f"{KEY}=1"], "train", "runtime")
    batch, devices = train.batch_size, runtime.devices
    candidates = [n for n in range(1, batch + 1) if batch % n == 0 and divides_into_subtrees(batch // n, devices)]
    if not candidates:
        train.micro_batches_per_device(devices)  # says why
    sizes: list[dict[str, Any]] = []
    limit = memory
    say(f"{'micro-batch':>11}{'memory':>12}{'tokens/s':>12}")
    for candidate in candidates:
        options = [f"--measure={candidate}", f"--parent={os.getpid()}", f"--seconds={seconds}"]
        options += [f"--memory={limit}"] if limit else []
        measured = run([sys.executable, "-c", CODE, "find-batch-size", *settings, *options])
        if measured is None or measured["memory_bytes"] > measured["memory_limit"]:
            say(f"{candidate:>11}   does not fit in {size(limit) if limit else 'memory'}")
            break  # nor do larger ones
        limit = measured.pop("memory_limit")  # the same for all
        sizes.append({"micro_batch_size": candidate, **measured})
        say(f"{candidate:>11}{size(measured['memory_bytes']):>12}{measured['tokens_per_second']:>12,.0f}")
    if not sizes:
        raise ValueError(
            f"{KEY} = 1: does not fit in {size(limit) if limit else 'memory'}; free memory, or set a smaller model or "
            "context_length"
        )
    return {
        "memory_limit": limit,
        "sizes": sizes,
        "largest": sizes[-1]["micro_batch_size"],
        "fastest": max(sizes, key=lambda measured: measured["tokens_per_second"])["micro_batch_size"],
    }


def advice(settings: list[str], result: dict[str, Any], written: bool) -> str:
    wanted = " ".join([*settings, f"{KEY}={result['fastest']}"])
    return (
        f"\nOf the sizes that fit in {size(result['memory_limit'])}, {result['fastest']} is the fastest and "
        f"{result['largest']} the largest. The train stage needs about 0.2 GB more for its libraries.\n"
        + (f"params.yaml: set {wanted}.\n" if written else f"To use the fastest: `tiny-lm preset {wanted}`\n")
        + "Another micro-batch size gives other weights, so `dvc repro` trains again after a change."
    )
