"""The race: bits per byte after the same CPU time on the same documents, of our default recipe and of other projects.

    python benchmarks/learning.py --text stories --nanogpt DIR --nanochat DIR    # 40 minutes or more
    python benchmarks/learning.py --text input.txt --tail                        # nanoGPT's split of one text
    python benchmarks/learning.py --text FOLDER --glob '**/*.py' --seconds 30 --contenders ours,hf-llama --rates 2

A text goes through the stages corpus, tokenizer and shards, so all contenders train on the same token ids of the same
documents, and our evaluation counts the bits of all, each in windows of its own context length. Ours runs once with its
defaults, and once with the size of model that `tiny-lm plan` chooses. Each peer has its project's recipe
(contenders.py), and its learning rate is tuned: `--rates` of them, a factor of about three apart, and one more as long
as the best is the lowest or the highest; the best is reported. Contenders take turns, one process at a time. CPU time
is that of the training loop, without the first pass through the libraries and without evaluation; the schedules end
when it does.

nanoGPT and nanochat are read from checkouts of karpathy/nanoGPT and karpathy/nanochat; nanochat runs in float32, and
nothing is compiled. litgpt has its own environment, or is skipped:

    python -m venv .work/litgpt && .work/litgpt/bin/pip install litgpt==0.5.13 torch==2.13.0 ruamel.yaml==0.19.1
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from contenders import CONTENDERS, Run

from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params
from tiny_lm.shards.format import ShardsMetadata, read_metadata
from tiny_lm.stages import corpus, shards, tokenizer

HERE = Path(__file__).resolve().parent
LITGPT = HERE.parent / ".work/litgpt/bin/python"

OURS = ("ours", "planned")  # which are not tuned
Result = dict[str, Any]  # as contenders.py prints it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", help="stories, a file or a folder; default: stories")
    parser.add_argument("--separator", help="divides text files into documents, for example $'\\n\\n'")
    parser.add_argument("--glob", default="**/*", help="files of a folder, for example '**/*.py'")
    parser.add_argument("--tail", action="store_true", help="validate on the last tenth; default: on random documents")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=100, help="CPU time of each run")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="default: all of %(default)s")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--rates", type=int, default=4, help="learning rates of each peer; 1: its default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    args = parser.parse_args()
    names = [name for name in args.contenders.split(",") if may_run(name, args, parser)]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}; "
        f"{args.seconds:g} s of CPU time for each run"
    )
    races = []
    for text in args.text or ["stories"]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                metadata = prepare(Path(folder), text, args)
            except ValueError as error:
                parser.error(f"--text {text}: {error}")
            print(
                f"\n{text}: {metadata.train.tokens:,} tokens to train on, {metadata.val.bytes:,} bytes of "
                f"{metadata.val.documents:,} documents to validate on"
            )
            runs = race(names, Path(folder, "data/shards"), args)
        best = {name: min(results.values(), key=bits) for name, results in runs.items()}
        print_table(best, {name: len(results) for name, results in runs.items()})
        races.append(
            {"text": text, "best": list(best.values()), "runs": [r for each in runs.values() for r in each.values()]}
        )
        if args.json:  # after each text, since a race takes long
            args.json.write_text(json.dumps(races, indent=2) + "\n", encoding="utf-8")


def may_run(name: str, args: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    """Whether the code of a contender is there; says so if it is not."""
    if name not in CONTENDERS:
        parser.error(f"--contenders {name}: must be some of {','.join(CONTENDERS)}")
    if name == "litgpt" and not LITGPT.exists() and importlib.util.find_spec("litgpt") is None:
        print("litgpt is skipped: it is not installed, see --help")
        return False
    if name in ("nanogpt", "nanochat"):
        checkout = vars(args)[name]
        if checkout is None:
            print(f"{name} is skipped: --{name} names no checkout of it")
            return False
        main_file = {"nanogpt": "model.py", "nanochat": "nanochat/gpt.py"}[name]
        if not (checkout / main_file).is_file():
            parser.error(f"--{name} {checkout}: no checkout of it, since it lacks {main_file}")
    return True


def prepare(folder: Path, text: str, args: argparse.Namespace) -> ShardsMetadata:
    """Runs the first three stages in `folder`."""
    dataset: dict[str, Any] = {"source": "stories"}
    if text != "stories":
        dataset = {
            "source": "local", "path": str(Path(text).resolve()), "separator": args.separator, "glob": args.glob
        }  # fmt: skip
    if args.tail:
        dataset |= {"validation": "tail", "validation_fraction": 0.1, "deduplicate": False}
    values = {"dataset": dataset, "tokenizer": {"vocab_size": args.vocab_size}, "shards": {}}
    stage: Any = SimpleNamespace(
        section=lambda name, choices: load_params(name, values[name], choices),
        runtime=SimpleNamespace(progress=False, workers=1), say=lambda text: None,
        executor=lambda: contextlib.nullcontext(InProcess()),
    )  # fmt: skip
    with contextlib.chdir(folder):
        for each in (corpus, tokenizer, shards):
            each.main(stage)
        return read_metadata(Path("data/shards"))


def race(names: list[str], shards: Path, args: argparse.Namespace) -> dict[str, dict[int, Result]]:
    """The runs of each contender, by the exponent of its learning rate, in rounds."""
    runs: dict[str, dict[int, Result]] = {name: {} for name in names}
    racing = True
    while racing:
        racing = False
        for name, results in runs.items():
            rates = 1 if name in OURS else args.rates
            exponent = next_exponent({key: bits(each) for key, each in results.items()}, CONTENDERS[name].lowest, rates)
            if exponent is not None:
                factor = 1.0 if name in OURS else factor_of(exponent)
                checkout: Path | None = vars(args).get(name)
                run = Run(
                    contender=name, shards=str(shards), seconds=args.seconds, factor=factor, threads=args.threads,
                    checkout=str(checkout.resolve()) if checkout else "",
                )  # fmt: skip
                results[exponent] = start(run)
                print("  " + line(results[exponent]), flush=True)
                racing = True
    return runs


def next_exponent(tried: dict[int, float], lowest: int, rates: int) -> int | None:
    """The next learning rate to try, given the bits per byte of those tried; None if the best is known."""
    if len(tried) < rates:
        return lowest + len(tried) if rates > 1 else 0
    best = min(tried, key=lambda exponent: tried[exponent])
    if rates > 1 and best in (min(tried), max(tried)):
        return best - 1 if best == min(tried) else best + 1
    return None


def factor_of(exponent: int) -> float:
    """…, -1 → 0.3, 0 → 1, 1 → 3, 2 → 10, …"""
    return float(f"{3 if exponent % 2 else 1}e{exponent // 2}")


def bits(result: Result) -> float:
    """Bits per byte; infinite for a run that diverged."""
    return result["bits_per_byte"] if result["bits_per_byte"] == result["bits_per_byte"] else float("inf")


def start(run: Run) -> Result:
    """One run, in its own process."""
    python = str(LITGPT) if run.contender == "litgpt" and LITGPT.exists() else sys.executable
    path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [python, str(HERE / "contenders.py"), json.dumps(asdict(run))], capture_output=True, text=True,
        env=os.environ | {
            "PYTHONPATH": path, "OMP_NUM_THREADS": str(run.threads), "CUDA_VISIBLE_DEVICES": "",
            "TORCHDYNAMO_DISABLE": "1", "NANOCHAT_DTYPE": "float32",
        },
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{run.contender} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def line(result: Result) -> str:
    rate = f"{result['learning_rate']:.2g} (× {result['factor']:g})"
    return (
        f"{result['contender']:<10}{result['parameters']:>12,}{result['tokens']:>12,}{result['seconds']:>9.1f} s"
        f"{rate:>18}{result['bits_per_byte']:>10.4f}"
    )


def print_table(best: dict[str, Result], tried: dict[str, int]) -> None:
    header = f"{'contender':<10}{'parameters':>12}{'tokens':>12}{'CPU time':>11}{'learning rate':>18}{'bits/byte':>10}"
    print("\n" + header + ("   × ours" if "ours" in best else ""))
    for name, result in best.items():
        ratio = f"{bits(result) / bits(best['ours']):>9.3f}" if "ours" in best else ""
        note = "not tuned" if tried[name] == 1 else f"the best of {tried[name]}"
        print(f"{line(result)}{ratio}   {note}")


if __name__ == "__main__":
    main()
